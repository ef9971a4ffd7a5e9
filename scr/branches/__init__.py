"""Other runs of the same prompt beside `generate`: what they see instead, and how they keep pace."""
