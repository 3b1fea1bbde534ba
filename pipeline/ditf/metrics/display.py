"""Text and units of metrics in tables, charts and the report.

J, F and recall are stored as fractions of 1, as their official evaluations define them. They are shown in percent, like
PCK, accuracy and IoU.
"""

import re

FRACTIONS = re.compile(r"(J&F|J|F)([- ]Mean|[- ]Recall|[- ]Decay)?|recall@\d+")

# Names that SPair-71k gives to the values of the columns that group its pairs.
GRADES = {
    "viewpoint_variation": ("easy", "medium", "hard"),
    "scale_variation": ("easy", "medium", "hard"),
    "truncation": ("none", "source", "target", "both"),
    "occlusion": ("none", "source", "target", "both"),
    "mirror": ("no", "yes"),
}


def is_fraction(metric: str) -> bool:
    """Return whether a metric is stored as a fraction of 1."""
    return FRACTIONS.fullmatch(metric) is not None


def in_percent(metric: str, value: float) -> float:
    """Return a metric's value in percent if it is stored as a fraction, otherwise the value unchanged."""
    return 100 * value if is_fraction(metric) else value


def p_text(p: float) -> str:
    """Return a p-value with three decimals, or "<0.001"."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def group_value(group: str, value: str) -> str:
    """Return the name of a group of pairs, such as "hard" for the viewpoint variation "2" of SPair-71k."""
    grades = GRADES.get(group, ())
    return grades[int(value)] if value.isdecimal() and int(value) < len(grades) else value


def group_label(group: str, value: str) -> str:
    """Return a group of pairs with the column that forms it, such as "viewpoint variation: hard"."""
    return f"{group.replace('_', ' ')}: {group_value(group, value)}"
