"""Captions and alternative texts of the images on the report, by the names of their files."""

import re

DESCRIPTIONS = {
    r"matches_(best|median|worst)": (
        "Matches of the {0} pair",
        "Two images side by side. Lines join matched points: solid and blue where correct, dashed and orange where "
        "wrong. Rings mark the true points.",
    ),
    r"features": (
        "Descriptors as colours",
        "Images, each beside a map of its descriptors. The colours are the first three principal components, so that "
        "similar tokens have similar colours.",
    ),
    r"search_(\d+)": (
        "Search for the middle of an image",
        "An image with a marked point, and the most similar place of each of several other images in a box.",
    ),
    r"classes": (
        "True and predicted classes",
        "Images in rows: on the left with their true classes as colours, on the right with the predicted ones.",
    ),
    r"block(\d+)": (
        "Channels of block {0}",
        "A chart of all channels: mean magnitude against standard deviation. Massive channels are marked and lie far "
        "from the others.",
    ),
    r"similarity(\d+)": (
        "Similarity of tokens, block {0}",
        "Histograms of the cosine similarity of two tokens of an image, one for each descriptor.",
    ),
    r"maps(\d+)": (
        "Largest channel and descriptors, block {0}",
        "Images in rows: the values of the largest channel, and each descriptor as colours.",
    ),
    r"blocks": (
        "Massive channels over blocks",
        "A chart of the magnitude of each massive channel, and of the median channel, over the captured blocks.",
    ),
    r"heatmap": ("Score by timestep and block", "Heatmaps of the score over timesteps and blocks."),
    r"ensemble": ("Score by ensemble size", "A chart of the best setting's score over the number of noise samples."),
    r"massive": ("Massive channels by timestep and block", "Heatmaps of how massive the largest channel is."),
}


def caption_of(stem: str) -> tuple[str, str]:
    """Return the caption and the alternative text of an image.

    Args:
        stem: Name of the file without the suffix. Names that `DESCRIPTIONS` does not contain are sequences.
    """
    for pattern, (caption, text) in DESCRIPTIONS.items():
        if match := re.fullmatch(pattern, stem):
            return caption.format(*match.groups()), text
    return f"Masks of {stem}", f"Frames of {stem} with each object in a colour of its own and a contour around it."
