"""Objects for the sample: cars, chairs, dogs and mugs in many shapes, each with named keypoints on its surface."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from ditf.sample.render import Color, Floats, Mesh, box, ellipsoid, flat, join, prism, tube

Point = tuple[float, float, float]
DARK: Color = (0.07, 0.07, 0.08)
GLASS: Color = (0.16, 0.2, 0.25)
METAL: Color = (0.7, 0.71, 0.73)
PAINTS: tuple[Color, ...] = (
    (0.75, 0.1, 0.1),
    (0.12, 0.27, 0.62),
    (0.2, 0.55, 0.58),
    (0.13, 0.42, 0.25),
    (0.9, 0.65, 0.12),
    (0.35, 0.36, 0.4),
)
FURS: tuple[Color, ...] = (
    (0.5, 0.33, 0.18),
    (0.72, 0.55, 0.33),
    (0.2, 0.16, 0.14),
    (0.82, 0.76, 0.66),
    (0.45, 0.42, 0.4),
    (0.6, 0.3, 0.15),
)
WOODS: tuple[Color, ...] = (
    (0.55, 0.35, 0.18),
    (0.35, 0.2, 0.11),
    (0.78, 0.6, 0.38),
    (0.85, 0.84, 0.8),
    (0.2, 0.3, 0.4),
    (0.6, 0.2, 0.15),
)


@dataclass(frozen=True)
class Object:
    """An object.

    Attributes:
        mesh: Its surface. The object stands on the ground.
        keypoints: Points on the surface by name. "left" and "right" are the object's own sides.
    """

    mesh: Mesh
    keypoints: dict[str, Point]


def car(rng: Generator, color: int) -> Object:
    """Return a saloon, a hatchback, a van or a pick-up."""
    paint = PAINTS[color % len(PAINTS)]
    kind = color % 4
    length, half = rng.uniform(3.9, 4.6), rng.uniform(0.82, 0.92)
    low, belt = 0.28, rng.uniform(0.82, 0.95)
    roof = belt + (rng.uniform(0.5, 0.58), 0.58, 0.85, 0.62)[kind]
    front, back = length / 2, -length / 2
    hood = front - (1.25, 1.15, 0.55, 1.2)[kind]  # where the windscreen begins
    boot = back + (0.75, 0.1, 0.06, 1.75)[kind]  # where the rear window begins
    wheel, axle_front, axle_back = rng.uniform(0.31, 0.36), front - 0.8, back + 0.8
    # The profile of the body, (x, z), as seen from the right.
    body = np.array(
        [
            (back + 0.08, low),
            (front - 0.1, low),
            (front, low + 0.22),
            (front - 0.04, belt - 0.22),
            (front - 0.25, belt - 0.1),
            (hood, belt),
            (boot, belt),
            (back + 0.04, belt - (0.06 if kind in (0, 3) else 0.0)),
            (back, low + 0.25),
        ]
    )
    parts = [_extruded(body, np.array([half - 0.06, *[half] * 2, *[half - 0.02] * 2, *[half - 0.05] * 3, half]), paint)]
    slant_front, slant_back = (0.65, 0.6, 0.4, 0.55)[kind], (0.5, 0.35, 0.06, 0.1)[kind]
    inner, top = half - 0.07, half - 0.2
    corners = [
        (boot, inner, belt),
        (hood, inner, belt),
        (hood - slant_front, top, roof),
        (boot + slant_back, top, roof),
    ]
    cabin_low = [(boot, -inner, belt), (hood, -inner, belt), (hood, inner, belt), (boot, inner, belt)]
    roof_x = (boot + slant_back, hood - slant_front)
    cabin_high = [(roof_x[i], s * top, roof) for i, s in ((0, -1), (1, -1), (1, 1), (0, 1))]
    parts += [prism(cabin_low, cabin_high, GLASS)]
    lid = [(x, y, roof + 0.05) for x, y in ((roof_x[0] + 0.05, -top + 0.05), (roof_x[1] - 0.05, -top + 0.05))]
    lid += [(roof_x[1] - 0.05, top - 0.05, roof + 0.05), (roof_x[0] + 0.05, top - 0.05, roof + 0.05)]
    parts.append(prism([(x, y, roof - 0.02) for x, y, _ in cabin_high], lid, paint))
    for side in (-1, 1):
        pillars = [(corners[0], corners[3]), (corners[1], corners[2])]
        middle = (boot + hood) / 2 + 0.05
        pillars.append(((middle, inner, belt), ((roof_x[0] + roof_x[1]) / 2, top, roof)))
        for (x1, y1, z1), (x2, y2, z2) in pillars:
            parts.append(tube([(x1, side * y1, z1), (x2, side * y2, z2)], [0.05, 0.045], paint, sides=8))
        for x in (axle_front, axle_back):
            rim = half + 0.03
            parts.append(
                tube([(x, side * (half - 0.2), wheel), (x, side * rim, wheel)], [wheel, wheel], DARK, sides=24)
            )
            arch = np.linspace(0, np.pi, 13)
            bow = np.stack(
                [x + (wheel + 0.05) * np.cos(arch), 0 * arch + side * half, wheel + (wheel + 0.05) * np.sin(arch)], -1
            )
            parts.append(tube(bow, np.full(13, 0.035), DARK, sides=8))
            hub = [(x, side * (rim - 0.01), wheel), (x, side * (rim + 0.015), wheel)]
            parts.append(tube(hub, [wheel * 0.6] * 2, METAL, sides=16))
        parts.append(
            ellipsoid((front - 0.05, side * (half - 0.24), belt - 0.26), (0.09, 0.16, 0.09), (0.97, 0.95, 0.8))
        )
        parts.append(ellipsoid((back + 0.03, side * (half - 0.2), belt - 0.2), (0.07, 0.12, 0.1), (0.8, 0.04, 0.04)))
        parts.append(box((hood - 0.3, side * (half + 0.04), belt + 0.08), (0.12, 0.16, 0.12), paint))
        parts.append(box((middle + 0.25, side * half, belt - 0.15), (0.2, 0.03, 0.04), METAL))
    parts.append(box((front - 0.01, 0, low + 0.16), (0.08, 1.3 * half, 0.14), DARK))
    parts.append(box((back, 0, low + 0.3), (0.06, 0.5, 0.13), (0.93, 0.93, 0.9)))
    keypoints: dict[str, Point] = {}
    for name, side in (("right", -1), ("left", 1)):
        keypoints |= {
            f"front {name} wheel": (axle_front, side * (half + 0.045), wheel),
            f"back {name} wheel": (axle_back, side * (half + 0.045), wheel),
            f"{name} headlight": (front + 0.03, side * (half - 0.24), belt - 0.26),
            f"{name} tail light": (back - 0.03, side * (half - 0.2), belt - 0.2),
            f"front {name} corner of the roof": (roof_x[1] - 0.03, side * (top - 0.03), roof + 0.04),
            f"back {name} corner of the roof": (roof_x[0] + 0.03, side * (top - 0.03), roof + 0.04),
            f"{name} end of the windscreen": (hood, side * inner, belt + 0.03),
        }
    return Object(join(parts), keypoints)


def chair(rng: Generator, color: int) -> Object:
    """Return a chair with a solid back, slats or rails, with or without arms."""
    wood = WOODS[color % len(WOODS)]
    seat_color = wood if color % 2 else PAINTS[(color + 3) % len(PAINTS)]
    depth, width = rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5)
    seat, back, thick = rng.uniform(0.42, 0.5), rng.uniform(0.85, 1.1), 0.04
    x, y, lean = depth / 2, width / 2, rng.uniform(0.03, 0.12)
    parts = [box((0, 0, seat), (depth + 0.04, width + 0.04, 0.05), seat_color)]
    feet: dict[str, Point] = {}
    for end, fx in (("front", x), ("back", -x)):
        for name, side in (("right", -1), ("left", 1)):
            spread = rng.uniform(0.0, 0.05) if color % 3 == 0 else 0.0
            foot = (fx + np.sign(fx) * spread, side * (y + spread), 0.0)
            parts.append(_bar((fx * 0.96, side * y * 0.96, seat), foot, thick, wood))
            feet[f"{end} {name} foot"] = (foot[0], foot[1], 0.02)
    tops = {name: (-x - lean, side * y, back) for name, side in (("right", -1), ("left", 1))}
    for name, side in (("right", -1), ("left", 1)):
        parts.append(_bar((-x, side * y, seat), tops[name], thick, wood))
    style = color % 3
    if style == 0:
        parts.append(_panel(-x, lean, y, seat, back, 0.35, 1.0, seat_color))
    elif style == 1:
        for low in (0.4, 0.65, 0.88):
            parts.append(_panel(-x, lean, y, seat, back, low, low + 0.12, wood))
    else:
        parts.append(_panel(-x, lean, y, seat, back, 0.85, 1.0, wood))
        for fraction in np.linspace(-0.7, 0.7, 5):
            parts.append(
                _bar((-x, fraction * y, seat), (-x - lean * 0.9, fraction * y, seat + (back - seat) * 0.9), 0.022, wood)
            )
    if color % 4 == 1:
        for side in (-1, 1):
            arm = seat + 0.22
            parts.append(_bar((x * 0.8, side * y, seat), (x * 0.8, side * y, arm), 0.03, wood))
            parts.append(box((0.0, side * y, arm), (depth, 0.05, 0.03), wood))
    if color % 2:
        for side in (-1, 1):
            parts.append(_bar((x, side * y, seat * 0.4), (-x, side * y, seat * 0.4), 0.025, wood))
    keypoints = dict(feet)
    for name, side in (("right", -1), ("left", 1)):
        keypoints |= {
            f"front {name} corner of the seat": (x + 0.02, side * (y + 0.02), seat + 0.02),
            f"back {name} corner of the seat": (-x, side * (y + 0.02), seat + 0.025),
            f"top {name} end of the back": tops[name],
        }
    return Object(join(parts), keypoints)


def dog(rng: Generator, color: int, phase: float = np.pi / 2) -> Object:
    """Return a dog that stands or walks, with hanging or pointed ears.

    Args:
        rng: Decides its shape.
        color: Number of its fur.
        phase: Angle of the oscillation of its legs, in radians.
    """
    fur = FURS[color % len(FURS)]
    light, dark = _shade(fur, 1.25, 0.08), _shade(fur, 0.7, 0.0)
    leg, girth = rng.uniform(0.3, 0.42), rng.uniform(0.14, 0.18)
    length, stride = rng.uniform(0.34, 0.44), rng.uniform(0.0, 0.45) * np.sin(phase)
    height = leg + girth
    chest, rump = (length * 0.8, 0.0, height + 0.02), (-length * 0.8, 0.0, height)
    parts = [
        tube(
            [(x, 0, z) for x, z in zip(np.linspace(-1.25, 1.2, 11) * length, _hump(height), strict=True)],
            girth * np.array([0.05, 0.6, 0.86, 0.92, 0.86, 0.84, 0.9, 1.0, 1.02, 0.75, 0.05]),
            fur,
        )
    ]
    raised = rng.uniform(-0.1, 0.25)
    head = (chest[0] + 0.24 + 0.04 * raised, 0.0, height + 0.27 + 0.2 * raised)
    muzzle = rng.uniform(0.13, 0.19)
    parts.append(
        tube(
            [(chest[0] + 0.02, 0, height + 0.04), (chest[0] + 0.12, 0, height + 0.16), head],
            [girth * 0.82, 0.1, 0.085],
            fur,
        )
    )
    parts.append(ellipsoid(head, (0.125, 0.1, 0.1), fur))
    tip = (head[0] + 0.08 + muzzle, 0.0, head[2] - 0.05)
    parts.append(
        tube(
            [
                (head[0] + 0.04, 0, head[2] - 0.025),
                (head[0] + 0.1, 0, head[2] - 0.035),
                (tip[0] - 0.02, 0, tip[2]),
                tip,
            ],
            [0.075, 0.062, 0.048, 0.02],
            light,
        )
    )
    parts.append(ellipsoid((tip[0], 0, tip[2] + 0.018), (0.022, 0.028, 0.022), DARK))
    keypoints: dict[str, Point] = {"nose": (tip[0] + 0.022, 0.0, tip[2] + 0.018)}
    for name, side in (("right", -1), ("left", 1)):
        eye = (head[0] + 0.088, side * 0.058, head[2] + 0.036)
        parts.append(ellipsoid(eye, (0.02, 0.018, 0.02), DARK))
        keypoints[f"{name} eye"] = (eye[0] + 0.014, side * 0.072, eye[2] + 0.004)
        root = (head[0] - 0.03, side * 0.075, head[2] + 0.07)
        if color % 2:
            tip_of_ear = (root[0] - 0.02, side * 0.1, root[2] + 0.13)
            parts.append(
                tube(
                    [root, ((root[0] + tip_of_ear[0]) / 2, side * 0.09, root[2] + 0.06), tip_of_ear],
                    [0.045, 0.035, 0.005],
                    fur,
                )
            )
            keypoints[f"tip of the {name} ear"] = tip_of_ear
        else:
            tip_of_ear = (root[0] - 0.01, side * 0.145, root[2] - 0.16)
            parts.append(
                tube(
                    [root, (root[0] - 0.015, side * 0.125, root[2] - 0.05), tip_of_ear],
                    [0.03, 0.05, 0.025],
                    dark,
                )
            )
            keypoints[f"tip of the {name} ear"] = (tip_of_ear[0], tip_of_ear[1] + side * 0.02, tip_of_ear[2])
        for end, (x, _, _), swing in (("front", chest, side * stride), ("back", rump, -side * stride)):
            hip = (x, side * girth * 0.62, height - 0.02)
            bend = 0.05 if end == "front" else -0.07
            knee = (x + 0.5 * leg * np.sin(swing * 0.7) + bend * 0.6, hip[1], height - 0.56 * leg - 0.02)
            paw = (x + leg * np.sin(swing) * 0.8, hip[1], 0.035)
            parts.append(
                tube(
                    [hip, knee, (paw[0], paw[1], 0.06), (paw[0], paw[1], 0.02)],
                    [0.088 if end == "back" else 0.075, 0.05, 0.036, 0.036],
                    fur,
                    sides=12,
                )
            )
            parts.append(ellipsoid((paw[0] + 0.025, paw[1], 0.032), (0.062, 0.042, 0.032), light))
            keypoints[f"{end} {name} paw"] = (paw[0] + 0.05, paw[1] + side * 0.025, 0.045)
    curl = rng.uniform(0.1, 0.35)
    base = (-1.14 * length, 0.0, height + 0.06)
    tail = (base[0] - 0.22, 0.0, base[2] + curl)
    parts.append(tube([base, (base[0] - 0.13, 0, base[2] + 0.25 * curl), tail], [0.04, 0.034, 0.015], fur, sides=12))
    keypoints |= {"tip of the tail": tail, "base of the tail": (base[0] - 0.02, 0.0, base[2] + 0.042)}
    return Object(join(parts), keypoints)


def mug(rng: Generator, color: int) -> Object:
    """Return a mug with a handle at its front, straight or conical, plain or with a band."""
    paint = PAINTS[(color + 2) % len(PAINTS)]
    band = PAINTS[(color * 2 + 5) % len(PAINTS)] if color % 2 else paint
    height, bottom = rng.uniform(0.085, 0.115), rng.uniform(0.032, 0.042)
    rim = bottom * rng.uniform(1.0, 1.3)
    levels = np.array([0.0, 0.04, 0.3, 0.3001, 0.7, 0.7001, 1.0])
    radii = bottom + (rim - bottom) * levels
    radii[0] *= 0.93
    wall = tube(np.stack([0 * levels, 0 * levels, levels * height], -1), radii, paint, sides=40, hollow=True)
    stripe = (levels > 0.3) & (levels <= 0.7)
    colors = wall.colors.copy()
    colors[np.repeat(stripe, 40)] = band
    wall = Mesh(wall.points, wall.normals, colors, wall.triangles)
    inside = tube(
        [(0, 0, height), (0, 0, height * 0.8)], [rim * 0.92, rim * 0.9], (0.9, 0.88, 0.84), sides=40, hollow=True
    )
    inside = Mesh(inside.points, -inside.normals, inside.colors, inside.triangles[:, ::-1])
    circle = np.arange(40) * 2 * np.pi / 40
    ring = np.stack([np.cos(circle), np.sin(circle)], -1)
    lip = [
        np.array([(*a * rim, height), (*b * rim, height), (*b * rim * 0.92, height), (*a * rim * 0.92, height)])
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)
    ]
    coffee = np.column_stack([ring * rim * 0.91, np.full(40, height * 0.82)])
    upper, lower, reach = height * rng.uniform(0.8, 0.88), height * rng.uniform(0.15, 0.25), rng.uniform(0.028, 0.036)
    bow = np.linspace(np.pi / 2, -np.pi / 2, 15)
    middle, half = (upper + lower) / 2, (upper - lower) / 2
    wall_at = bottom + (rim - bottom) * (middle + half * np.sin(bow)) / height
    handle = np.stack([wall_at - 0.002 + reach * np.cos(bow), 0 * bow, middle + half * np.sin(bow)], -1)
    parts = [
        wall,
        inside,
        flat(lip, paint),
        flat([coffee], (0.22, 0.12, 0.06)),
        tube(handle, np.full(15, 0.0062), paint, sides=12),
    ]
    outer = bottom + (rim - bottom) * middle / height
    keypoints: dict[str, Point] = {
        "upper end of the handle": (wall_at[0] + 0.001, 0.0, upper + 0.006),
        "lower end of the handle": (wall_at[-1] + 0.001, 0.0, lower - 0.006),
        "middle of the handle": (outer + reach + 0.004, 0.0, middle),
        "rim above the handle": (rim * 0.97, 0.0, height),
        "rim opposite the handle": (-rim * 0.97, 0.0, height),
        "base below the handle": (bottom, 0.0, 0.04 * height),
        "base opposite the handle": (-bottom, 0.0, 0.04 * height),
    }
    for name, side in (("right", -1), ("left", 1)):
        keypoints[f"{name} of the rim"] = (0.0, side * rim * 0.97, height)
        keypoints[f"{name} of the base"] = (0.0, side * bottom, 0.04 * height)
    return Object(join(parts), keypoints)


KINDS: dict[str, Callable[[Generator, int], Object]] = {"car": car, "chair": chair, "dog": dog, "mug": mug}


def _shade(color: Color, factor: float, offset: float) -> Color:
    """Return a lighter or darker color."""
    red, green, blue = (min(1.0, factor * value + offset) for value in color)
    return red, green, blue


def _hump(height: float) -> Floats:
    """Return the height of a dog's spine at 11 places from the rump to the chest."""
    return height + np.array([0.02, 0.0, 0.01, 0.015, 0.02, 0.015, 0.005, -0.005, -0.005, 0.01, 0.03])


def _extruded(profile: Floats, halves: Floats, color: Color) -> Mesh:
    """Return a body between two mirrored sides.

    Args:
        profile: Outline (x, z) as seen from the right, counterclockwise, [n, 2].
        halves: Half of the width at each corner, [n].
        color: Its color.
    """
    right = np.stack([profile[:, 0], -halves, profile[:, 1]], -1)
    left = right * (1, -1, 1)
    centers = [side.mean(0) for side in (right, left)]
    polygons = []
    for i in range(len(profile)):
        j = (i + 1) % len(profile)
        polygons += [
            np.array([right[i], right[j], centers[0]]),
            np.array([left[j], left[i], centers[1]]),
            np.array([right[j], right[i], left[i], left[j]]),
        ]
    return flat(polygons, color)


def _bar(start: Point, end: Point, thick: float, color: Color) -> Mesh:
    """Return a bar with a square cross-section."""
    return tube([start, end], [thick * 0.7] * 2, color, sides=4)


def _panel(x: float, lean: float, y: float, seat: float, back: float, low: float, high: float, color: Color) -> Mesh:
    """Return a board between the posts of a chair's back, from `low` to `high` as fractions of the back."""
    ends = []
    for fraction in (low, high):
        z, middle = seat + (back - seat) * fraction, x - lean * fraction
        ends.append([(middle + dx, dy, z) for dx, dy in ((-0.015, -y), (0.015, -y), (0.015, y), (-0.015, y))])
    return prism(ends[0], ends[1], color)
