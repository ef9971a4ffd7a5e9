"""What exists in the world of pictures: categories named and numbered as in COCO, and places with typical objects.

Left out on purpose: what the drawings show badly or only together with something else (fork, tie, skis, frisbee), in
two styles alone (tennis racket), words that are also colours (orange), and words that the official CHAIR script turns
into a singular that it does not know (bus, scissors).
"""

from __future__ import annotations

from ..world.categories import Category

__all__ = ["CATEGORIES", "CATEGORY_ORDER", "SCENES", "plural"]

# The order is the order in which captions name things; do not reorder: a trained model has learned it.
CATEGORIES: dict[str, Category] = {
    name: Category(name, coco_id, supercategory)
    for supercategory, entries in (
        ("person", {"person": 1}),
        ("vehicle", {"bicycle": 2, "car": 3, "motorcycle": 4, "airplane": 5, "train": 7, "truck": 8, "boat": 9}),
        ("outdoor", {"traffic light": 10, "stop sign": 13}),
        (
            "animal",
            {
                "bird": 16, "cat": 17, "dog": 18, "horse": 19, "sheep": 20, "cow": 21, "elephant": 22, "bear": 23,
                "zebra": 24, "giraffe": 25,
            },
        ),
        ("accessory", {"backpack": 27, "umbrella": 28, "handbag": 31, "suitcase": 33}),
        ("sports", {"sports ball": 37, "kite": 38, "skateboard": 41}),
        ("kitchen", {"bottle": 44, "wine glass": 46, "cup": 47, "knife": 49, "spoon": 50, "bowl": 51}),
        (
            "food",
            {
                "banana": 52, "apple": 53, "sandwich": 54, "broccoli": 56, "carrot": 57, "hot dog": 58, "pizza": 59,
                "donut": 60, "cake": 61,
            },
        ),
        ("furniture", {"chair": 62, "couch": 63, "potted plant": 64, "bed": 65, "toilet": 70}),
        ("electronic", {"tv": 72, "laptop": 73, "mouse": 74, "keyboard": 76, "cell phone": 77}),
        ("indoor", {"book": 84, "clock": 85, "vase": 86, "teddy bear": 88, "toothbrush": 90}),
    )
    for name, coco_id in entries.items()
}  # fmt: skip

CATEGORY_ORDER: tuple[str, ...] = tuple(CATEGORIES)

# A place whose name captions use, and the categories that are typical of it.
SCENES: dict[str, tuple[str, ...]] = {
    "kitchen": ("knife", "spoon", "bowl", "bottle", "cup", "banana", "apple", "broccoli", "carrot"),
    "cafe": ("cup", "wine glass", "sandwich", "hot dog", "pizza", "donut", "cake", "chair", "person"),
    "living room": ("couch", "tv", "potted plant", "cat", "book", "clock", "vase"),
    "bedroom": ("bed", "teddy bear", "book", "clock", "cell phone", "cat", "laptop"),
    "bathroom": ("toilet", "toothbrush", "cup", "bottle", "potted plant"),
    "office": ("laptop", "mouse", "keyboard", "cell phone", "chair", "cup", "book", "clock"),
    "street": ("person", "bicycle", "car", "motorcycle", "truck", "traffic light", "stop sign"),
    "airport": ("airplane", "train", "person", "suitcase", "backpack", "handbag", "cell phone"),
    "park": ("dog", "bird", "bicycle", "kite", "sports ball", "skateboard", "person"),
    "farm": ("horse", "sheep", "cow", "dog", "bird", "truck"),
    "beach": ("boat", "umbrella", "kite", "sports ball", "person", "bird", "bottle"),
    "zoo": ("elephant", "bear", "zebra", "giraffe", "bird", "person"),
}

_PLURALS = {
    "person": "people", "sheep": "sheep", "mouse": "mice", "knife": "knives", "wine glass": "wine glasses",
    "sandwich": "sandwiches", "couch": "couches", "toothbrush": "toothbrushes", "broccoli": "broccoli",
}  # fmt: skip


def plural(name: str) -> str:
    """Return the plural of a category's name."""
    return _PLURALS.get(name, f"{name}s")
