"""What exists in the lab's world: categories named and numbered as in COCO, and scenes with typical objects.

Names are nodes of CHAIR's synonym list. Left out on purpose: words that end in "s" (the official CHAIR script turns
them into singulars that it does not know) and words that are also colours.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CATEGORIES", "CATEGORY_ORDER", "LOOK_ALIKES", "SCENES", "Category"]


class Category(NamedTuple):
    """One kind of object, with its identity in COCO."""

    name: str
    coco_id: int
    supercategory: str


# The order is the order in which captions name things; do not reorder: a trained model has learned it.
CATEGORIES: dict[str, Category] = {
    name: Category(name, coco_id, supercategory)
    for name, coco_id, supercategory in (
        ("person", 1, "person"),
        ("bicycle", 2, "vehicle"),
        ("car", 3, "vehicle"),
        ("truck", 8, "vehicle"),
        ("boat", 9, "vehicle"),
        ("traffic light", 10, "outdoor"),
        ("stop sign", 13, "outdoor"),
        ("bench", 15, "outdoor"),
        ("bird", 16, "animal"),
        ("cat", 17, "animal"),
        ("dog", 18, "animal"),
        ("horse", 19, "animal"),
        ("sheep", 20, "animal"),
        ("cow", 21, "animal"),
        ("umbrella", 28, "accessory"),
        ("kite", 38, "sports"),
        ("bottle", 44, "kitchen"),
        ("cup", 47, "kitchen"),
        ("bowl", 51, "kitchen"),
        ("pizza", 59, "food"),
        ("chair", 62, "furniture"),
        ("bed", 65, "furniture"),
        ("laptop", 73, "electronic"),
        ("mouse", 74, "electronic"),
        ("keyboard", 76, "electronic"),
        ("microwave", 78, "appliance"),
        ("oven", 79, "appliance"),
        ("sink", 81, "appliance"),
        ("refrigerator", 82, "appliance"),
        ("book", 84, "indoor"),
        ("clock", 85, "indoor"),
        ("teddy bear", 88, "indoor"),
    )
}

CATEGORY_ORDER: tuple[str, ...] = tuple(CATEGORIES)

# A scene is a place whose name captions use, and the categories that are typical of it.
SCENES: dict[str, tuple[str, ...]] = {
    "kitchen": ("microwave", "oven", "sink", "refrigerator", "bowl", "bottle", "cup"),
    "dining room": ("chair", "pizza", "bowl", "cup", "bottle", "clock"),
    "office": ("laptop", "mouse", "keyboard", "book", "cup", "chair", "clock"),
    "bedroom": ("bed", "teddy bear", "book", "clock", "cat", "laptop"),
    "street": ("car", "truck", "bicycle", "traffic light", "stop sign", "person", "bench"),
    "park": ("bench", "dog", "kite", "bird", "person", "bicycle", "umbrella"),
    "farm": ("horse", "sheep", "cow", "dog", "truck", "bird"),
    "beach": ("boat", "umbrella", "kite", "person", "bird", "dog"),
}

# Pairs that are drawn much alike, so that a small or noisy one can be taken for the other.
LOOK_ALIKES: tuple[tuple[str, str], ...] = (
    ("car", "truck"),
    ("cat", "dog"),
    ("horse", "cow"),
    ("microwave", "oven"),
    ("cup", "bowl"),
    ("laptop", "book"),
    ("clock", "pizza"),
    ("stop sign", "traffic light"),
)
