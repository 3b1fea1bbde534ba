"""A small renderer: triangle meshes with a depth buffer, smooth shading, a shadow and a textured ground.

Axes: x points forward, y to the left and z up. The ground is the plane z = 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ditf.data.images import RGB

Floats = NDArray[np.float64]
Color = tuple[float, float, float]

SUPERSAMPLING = 2  # rendered pixels per pixel of the image, along each side
SUBPIXELS = 32  # positions on the screen are rounded to 1/32 of a rendered pixel, so that all platforms agree
AMBIENT, DIFFUSE, SPECULAR, SHININESS = 0.42, 0.62, 0.25, 24
SHADOW = 0.45  # brightness that the shadow takes away


@dataclass(frozen=True)
class Mesh:
    """Triangles with a color for each vertex.

    Attributes:
        points: Vertices, [n, 3].
        normals: Unit normals of the vertices, [n, 3].
        colors: Colors of the vertices, 0 to 1, [n, 3].
        triangles: Numbers of the vertices of each triangle, counterclockwise from outside, [t, 3].
    """

    points: Floats
    normals: Floats
    colors: Floats
    triangles: NDArray[np.int64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at a point.

    Attributes:
        target: The point in the middle of the image, [3].
        azimuth: Direction from the target to the camera around z, in radians; 0 is in front of the object.
        elevation: Angle of the camera above the ground, in radians.
        distance: Distance from the target.
        focal: Focal length in pixels of the image.
        size: Width and height of the image in pixels.
    """

    target: Floats
    azimuth: float
    elevation: float
    distance: float
    focal: float
    size: tuple[int, int]

    @property
    def axes(self) -> Floats:
        """Return the unit vectors to the right, down and forward in the image, [3, 3]."""
        ca, sa, ce, se = (f(angle) for angle in (self.azimuth, self.elevation) for f in (np.cos, np.sin))
        forward = -np.array([ca * ce, sa * ce, se])
        right = np.array([-sa, ca, 0.0])
        return np.array([right, np.cross(forward, right), forward])

    @property
    def position(self) -> Floats:
        """Return the camera's position, [3]."""
        return self.target - self.distance * self.axes[2]

    def project(self, points: Floats) -> Floats:
        """Return the position in the image and the depth of points, (x, y, depth) [n, 3]."""
        local = (points - self.position) @ self.axes.T
        screen = self.focal * local[:, :2] / local[:, 2:] + np.array(self.size) / 2
        return np.hstack([screen, local[:, 2:]])


@dataclass(frozen=True)
class Rendering:
    """A rendered image.

    Attributes:
        pixels: The image, [h, w, 3].
        covered: Whether the object covers at least half of a pixel, [h, w].
        depth: Depth at each rendered pixel, [h * SUPERSAMPLING, w * SUPERSAMPLING]; infinite beside the object.
    """

    pixels: RGB
    covered: NDArray[np.bool_]
    depth: Floats

    def shows(self, positions: Floats, tolerance: float) -> NDArray[np.bool_]:
        """Return which points on the object's surface are visible, [n].

        Args:
            positions: Their positions and depths as `Camera.project` returns them, [n, 3].
            tolerance: Largest depth of a visible point behind the rendered surface.
        """
        column, row = np.floor(positions[:, :2] * SUPERSAMPLING).astype(int).T
        height, width = self.depth.shape
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        surface = self.depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        covered = self.covered[
            np.clip(row // SUPERSAMPLING, 0, height // SUPERSAMPLING - 1),
            np.clip(column // SUPERSAMPLING, 0, width // SUPERSAMPLING - 1),
        ]
        return np.asarray(inside & covered & (positions[:, 2] <= surface + tolerance))


def join(meshes: list[Mesh]) -> Mesh:
    """Return one mesh with the triangles of all."""
    starts = np.cumsum([0, *(len(mesh.points) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.colors for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts, strict=True)]),
    )


def flat(polygons: list[Floats], color: Color) -> Mesh:
    """Return a mesh of flat convex polygons, each [n, 3] counterclockwise from outside."""
    points, normals, triangles, start = [], [], [], 0
    for polygon in polygons:
        normal = np.cross(polygon[1] - polygon[0], polygon[2] - polygon[0])
        points.append(polygon)
        normals.append(np.tile(normal / np.linalg.norm(normal), (len(polygon), 1)))
        triangles += [(start, start + i, start + i + 1) for i in range(1, len(polygon) - 1)]
        start += len(polygon)
    vertices = np.concatenate(points)
    return Mesh(vertices, np.concatenate(normals), np.tile(color, (start, 1)), np.array(triangles))


def box(center: ArrayLike, size: ArrayLike, color: Color) -> Mesh:
    """Return a box with sides along the axes."""
    x, y, z = np.asarray(size) / 2
    corners = [[-x, -y], [x, -y], [x, y], [-x, y]]
    return prism([(a, b, -z) for a, b in corners], [(a, b, z) for a, b in corners], color, center)


def prism(bottom: ArrayLike, top: ArrayLike, color: Color, center: ArrayLike = (0, 0, 0)) -> Mesh:
    """Return the solid between two convex polygons with equally many corners, [n, 3].

    The corners are counterclockwise as seen from the side of `top`.
    """
    shift = np.asarray(center, float)
    low: Floats = np.asarray(bottom, float) + shift
    high: Floats = np.asarray(top, float) + shift
    following = np.roll(np.arange(len(low)), -1)
    sides = [np.array([low[i], low[j], high[j], high[i]]) for i, j in enumerate(following)]
    return flat([low[::-1], high, *sides], color)


def tube(path: ArrayLike, radii: ArrayLike, color: Color, *, sides: int = 12, hollow: bool = False) -> Mesh:
    """Return a round tube along a path.

    Args:
        path: Points of its axis, [n, 3].
        radii: Radius at each point, [n].
        color: Its color.
        sides: Number of faces around the axis.
        hollow: Leave out the lids at both ends.
    """
    axis, radius = np.asarray(path, float), np.asarray(radii, float)
    tangents = np.gradient(axis, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    start = np.eye(3)[np.abs(tangents[0]).argmin()]
    angles = np.arange(sides) * 2 * np.pi / sides
    rings, normals = [], []
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(axis, axis=0), axis=1))])
    slopes = np.gradient(radius, np.maximum(lengths, np.arange(len(axis)) * 1e-9))
    for center, size, tangent, slope in zip(axis, radius, tangents, slopes, strict=True):
        start = start - tangent * (start @ tangent)
        start /= np.linalg.norm(start)
        around = np.outer(np.cos(angles), start) + np.outer(np.sin(angles), np.cross(tangent, start))
        rings.append(center + size * around)
        outward = around - slope * tangent
        normals.append(outward / np.linalg.norm(outward, axis=1, keepdims=True))
    count = len(axis)
    grid = np.arange(count * sides).reshape(count, sides)
    a, b = grid[:-1], np.roll(grid, -1, axis=1)[:-1]
    c, d = np.roll(grid, -1, axis=1)[1:], grid[1:]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    points = np.concatenate(rings)
    wall = Mesh(points, np.concatenate(normals), np.tile(color, (len(points), 1)), triangles)
    if hollow:
        return wall
    return join([wall, flat([rings[0][::-1], rings[-1]], color)])


def ellipsoid(center: ArrayLike, radii: ArrayLike, color: Color) -> Mesh:
    """Return an ellipsoid with axes along x, y and z."""
    latitudes = np.linspace(-np.pi / 2, np.pi / 2, 9)
    unit = tube(np.stack([0 * latitudes, 0 * latitudes, np.sin(latitudes)], -1), np.cos(latitudes), color)
    sphere = unit.points / np.linalg.norm(unit.points, axis=1, keepdims=True)
    normals = sphere / np.asarray(radii)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(sphere * radii + np.asarray(center), normals, unit.colors, unit.triangles)


def render(mesh: Mesh, camera: Camera, light: Floats, backdrop: RGB, ground: RGB, scale: float) -> Rendering:
    """Render an object on the ground.

    Args:
        mesh: The object.
        camera: The camera.
        light: Unit vector towards the light, [3].
        backdrop: Picture behind the ground, of the image's size.
        ground: Texture of the ground.
        scale: Extent of the texture on the ground.
    """
    height, width = camera.size[1] * SUPERSAMPLING, camera.size[0] * SUPERSAMPLING
    empty = _ground(camera, backdrop, ground, scale, _shadow(mesh, camera, light))
    image = empty.repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)
    depth = np.full((height, width), np.inf)
    screen = camera.project(mesh.points)
    screen[:, :2] = np.round(screen[:, :2] * SUPERSAMPLING * SUBPIXELS) / SUBPIXELS
    towards = camera.position - mesh.points
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    diffuse = np.clip(mesh.normals @ light, 0, 1)
    halfway = towards + light
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
    glance = np.clip((mesh.normals * halfway).sum(1), 0, 1) ** SHININESS * (diffuse > 0)
    sky = 0.5 + 0.5 * mesh.normals[:, 2]
    brightness = AMBIENT * (0.55 + 0.45 * sky) + DIFFUSE * diffuse
    shades = mesh.colors * brightness[:, None] + SPECULAR * glance[:, None]
    for triangle, patch in _facing(mesh.triangles, screen, (width, height)):
        _draw_triangle(image[patch], depth[patch], screen[triangle], shades[triangle], patch)
    hit = np.isfinite(depth).reshape(height // SUPERSAMPLING, SUPERSAMPLING, -1, SUPERSAMPLING).mean((1, 3))
    small = image.reshape(height // SUPERSAMPLING, SUPERSAMPLING, -1, SUPERSAMPLING, 3).mean((1, 3))
    pixels = (np.clip(small, 0, 1) * 255).round().astype(np.uint8)
    return Rendering(pixels, hit >= 0.5, depth)


def _facing(
    triangles: NDArray[np.int64], screen: Floats, size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.int64], tuple[slice, slice]]]:
    """Yield the triangles that face the camera, each with the rows and columns of the box around it.

    Args:
        triangles: Numbers of the vertices, [t, 3].
        screen: Position in rendered pixels and depth of each vertex, [n, 3].
        size: Width and height of the rendering.
    """
    corners = screen[triangles][..., :2]
    (x1, y1), (x2, y2) = ((corners[:, i] - corners[:, 0]).T for i in (1, 2))
    # y points down in the image, so that triangles are clockwise there.
    facing = x1 * y2 - x2 * y1 < 0
    low = np.maximum(np.floor(corners.min(1)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(1)).astype(int) + 1, size)
    facing &= (low < high).all(1)
    for triangle, (left, upper), (right, lower) in zip(
        triangles[facing], low[facing].tolist(), high[facing].tolist(), strict=True
    ):
        yield triangle, (slice(upper, lower), slice(left, right))


def _draw_triangle(image: Floats, depth: Floats, corners: Floats, shades: Floats, patch: tuple[slice, slice]) -> None:
    """Draw a triangle where it is nearer than what was drawn before.

    Args:
        image: The part of the rendering around the triangle, [h, w, 3].
        depth: Depth there, [h, w].
        corners: Position in rendered pixels and depth of its vertices, [3, 3].
        shades: Colors of its vertices, [3, 3].
        patch: Rows and columns of the part.
    """
    (x0, y0, _), (x1, y1, _), (x2, y2, _) = corners.tolist()
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    rows, columns = patch
    x = np.arange(columns.start, columns.stop) + (0.5 - x0)
    y = np.arange(rows.start, rows.stop)[:, None] + (0.5 - y0)
    second = (x * (y2 - y0) - (x2 - x0) * y) / area
    third = ((x1 - x0) * y - x * (y1 - y0)) / area
    # Values on a triangle in perspective are linear after division by the depth.
    weights = np.stack([1 - second - third, second, third], -1)
    inside = weights.min(-1) >= 0
    weights = weights[inside] / corners[:, 2]
    distance = 1 / weights.sum(-1)
    nearer = distance < depth[inside]
    inside[inside] = nearer
    depth[inside] = distance[nearer]
    image[inside] = (weights[nearer] * distance[nearer, None]) @ shades


def _shadow(mesh: Mesh, camera: Camera, light: Floats) -> Floats:
    """Return how much of the light the object takes from each pixel of the ground, 0 to 1, [h, w]."""
    width, height = camera.size
    fallen = mesh.points - light * (mesh.points[:, 2:] / light[2])
    screen = np.round(camera.project(fallen)[:, :2]).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    for triangle in mesh.triangles:
        cv2.fillConvexPoly(mask, screen[triangle], 255)
    return cv2.GaussianBlur(mask, (0, 0), 2.5).astype(np.float64) / 255


def _ground(camera: Camera, backdrop: RGB, ground: RGB, scale: float, shadow: Floats) -> Floats:
    """Return the image without the object, [h, w, 3], 0 to 1."""
    height, width = shadow.shape
    size = (width, height)
    behind = cv2.GaussianBlur(cv2.resize(backdrop, size, interpolation=cv2.INTER_AREA), (0, 0), 1.5) / 255
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    local = np.stack([(x - width / 2), (y - height / 2), np.full_like(x, camera.focal)], -1)
    rays = local @ camera.axes
    down = np.minimum(rays[..., 2], -1e-6)
    reach = -camera.position[2] / down
    place = camera.position[:2] + reach[..., None] * rays[..., :2]
    rows, columns = ground.shape[:2]
    u, v = (place[..., 0] / scale * columns).astype(np.float32), (place[..., 1] / scale * rows).astype(np.float32)
    texture = cv2.remap(ground, u % columns, v % rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP) / 255
    average = ground.reshape(-1, 3).mean(0) / 255
    distance = np.linalg.norm(place - camera.position[:2], axis=-1)
    fade = np.clip((distance - 1.5 * camera.distance) / (3 * camera.distance), 0, 1)[..., None]
    texture = texture * (1 - fade) + average * fade
    texture *= 1 - SHADOW * shadow[..., None]
    horizon = np.clip((-rays[..., 2] / camera.focal - 0.02) / 0.02, 0, 1)[..., None]
    return np.asarray(texture * horizon + behind * (1 - horizon), np.float64)
