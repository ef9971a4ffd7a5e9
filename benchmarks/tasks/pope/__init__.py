"""POPE: is an object in the image?"""
