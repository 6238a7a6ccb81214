"""Things seen by a camera: sheets, cartons and tins turned in space, put into a picture with shadows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from instsearch_cli.demo.artwork import Thing

LIGHT = np.asarray([-0.45, -0.6, -0.66])  #: towards the lamp; x right, y down, z away from the camera


@dataclass(frozen=True)
class Pose:
    """How a thing is turned, in degrees: about the vertical, about the horizontal, in the picture plane."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


def rotation(pose: Pose) -> np.ndarray:
    """R = Rz(roll) Rx(pitch) Ry(yaw), f64[3, 3]."""
    a, b, c = np.radians([pose.yaw, pose.pitch, pose.roll])
    about_y = np.asarray([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.asarray([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.asarray([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def reduce(face: np.ndarray, scale: float) -> np.ndarray:
    """A face made smaller by averaging before it is drawn at ``scale`` < 1, so that it does not alias."""
    if scale >= 0.75:
        return face
    size = max(4, round(face.shape[1] * scale * 1.3)), max(4, round(face.shape[0] * scale * 1.3))
    return np.asarray(cv2.resize(face, size, interpolation=cv2.INTER_AREA))


def _quads(thing: Thing) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Faces of a sheet or carton: picture, corners f64[4, 3] clockwise from its top left, outward normal."""
    front = thing.faces[0]
    h, w = front.shape[:2]
    if thing.solid == "sheet":
        corners = np.asarray([[-w, -h, 0], [w, -h, 0], [w, h, 0], [-w, h, 0]]) / 2
        return [(front, corners, np.asarray([0.0, 0, -1]))]
    d = thing.faces[1].shape[1]
    x, y, z = w / 2, h / 2, d / 2
    right, top, left = thing.faces[1:4]
    return [
        (front, np.asarray([[-x, -y, -z], [x, -y, -z], [x, y, -z], [-x, y, -z]]), np.asarray([0.0, 0, -1])),
        (right, np.asarray([[x, -y, -z], [x, -y, z], [x, y, z], [x, y, -z]]), np.asarray([1.0, 0, 0])),
        (left, np.asarray([[-x, -y, z], [-x, -y, -z], [-x, y, -z], [-x, y, z]]), np.asarray([-1.0, 0, 0])),
        (top, np.asarray([[-x, -y, z], [x, -y, z], [x, -y, -z], [-x, -y, -z]]), np.asarray([0.0, -1, 0])),
        (top, np.asarray([[-x, y, -z], [x, y, -z], [x, y, z], [-x, y, z]]), np.asarray([0.0, 1, 0])),
    ]


def faceted(thing: Thing, pose: Pose, size: float) -> np.ndarray:
    """A sheet or carton, its longer side about ``size`` pixels: u8[h, w, 4], cropped to what is seen."""
    turn, quads = rotation(pose), _quads(thing)
    extent = max(thing.faces[0].shape[:2])
    distance = 3.2 * extent

    def project(points: np.ndarray) -> np.ndarray:
        turned = points @ turn.T
        return np.asarray(turned[:, :2] * (distance / (distance + turned[:, 2:])) * (size / extent))

    seen = [
        (face, points, project(points), normal @ turn.T)
        for face, points, normal in quads
        if thing.solid == "sheet" or (turn @ normal) @ (turn @ points.mean(0) + [0, 0, distance]) < 0
    ]
    flat = np.concatenate([corners for _, _, corners, _ in seen])
    low = np.floor(flat.min(0)) - 2
    w, h = (np.ceil(flat.max(0)) + 2 - low).astype(int)
    sprite = np.zeros((h, w, 4), np.uint8)
    solid = np.zeros((h, w), np.uint8)
    for _, _, corners, _ in seen:
        cv2.fillConvexPoly(solid, np.round((corners - low) * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    for face, _, corners, normal in seen:
        small = reduce(face, size / extent)
        fh, fw = small.shape[:2]
        source = np.asarray([[0, 0], [fw, 0], [fw, fh], [0, fh]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, (corners - low).astype(np.float32))
        lit = 0.62 + 0.42 * max(0.0, float(normal @ LIGHT))
        bright = np.concatenate([np.clip(small[..., :3] * lit, 0, 255).astype(np.uint8), small[..., 3:]], 2)
        if thing.solid == "sheet":
            sprite = cv2.warpPerspective(bright, matrix, (w, h), flags=cv2.INTER_LINEAR)
            break
        drawn = cv2.warpPerspective(
            bright, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        area = np.zeros((h, w), np.uint8)
        cv2.fillConvexPoly(area, np.round((corners - low) * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
        share = area[..., None].astype(np.float32) / 255
        first = sprite[..., 3:] == 0
        mixed = sprite[..., :3] * (1 - share) + drawn[..., :3] * share
        sprite[..., :3] = np.where(first & (share > 0), drawn[..., :3], mixed)
        sprite[..., 3] = np.maximum(sprite[..., 3], area)
    if thing.solid != "sheet":
        sprite[..., 3] = np.maximum(sprite[..., 3], solid)
    return sprite


def cylinder(thing: Thing, pose: Pose, size: float) -> np.ndarray:
    """A tin ``size`` pixels high, seen from above by ``pitch`` degrees in parallel projection: u8[h, w, 4].

    A point at angle t around the axis and height v is seen at x = r sin t, y = v cos p + r cos t sin p.
    """
    label = reduce(thing.faces[0], size / thing.faces[0].shape[0])
    lh, lw = label.shape[:2]
    ss = 2
    height, r = size * ss, size * ss * 0.36
    p = np.radians(max(pose.pitch, 2.0))
    cos, sin = float(np.cos(p)), float(np.sin(p))
    h, w = int(height * cos + 2 * r * sin) + 4, int(2 * r) + 4
    y, x = np.mgrid[:h, :w].astype(np.float32)
    x, y = (x - w / 2 + 0.5) / np.float32(r), y - h / 2 + 0.5
    inside = np.abs(x) < 1
    depth = np.sqrt(np.clip(1 - x * x, 0, 1))
    v = (y - r * depth * sin) / cos
    body = inside & (np.abs(v) <= height / 2)
    around = np.arcsin(np.clip(x, -1, 1)) / (2 * np.pi) + 0.25 + pose.yaw / 360
    colour = cv2.remap(
        label,
        ((around % 1) * lw - 0.5).astype(np.float32),
        ((v / height + 0.5) * lh - 0.5).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )[..., :3].astype(np.float32)
    lit = 0.5 + 0.5 * np.clip(0.75 * depth - 0.5 * x, 0, 1) + 0.3 * np.exp(-(((x + 0.45) / 0.09) ** 2))
    rim = np.abs(v) > height / 2 - 0.03 * height
    metal = np.float32(205) - 40 * np.cos(x * 9)[..., None]
    colour = np.where(rim[..., None], metal, colour) * lit[..., None]
    z = (y + height / 2 * cos) / (r * sin)
    rho = np.sqrt(x * x + z * z)
    rings = 150 + 45 * np.cos(rho * 16) * (rho > 0.55) + 40 * (x * -0.6 - z * 0.4)
    lid = rho <= 1
    colour = np.where(lid[..., None], rings[..., None], colour)
    alpha = np.where(body | lid, 255, 0)[..., None]
    full = np.concatenate([np.clip(colour, 0, 255), alpha], 2).astype(np.uint8)
    return unpremultiplied_resize(full, (w // ss, h // ss))


def unpremultiplied_resize(sprite: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Reduce a sprite by averaging, colours weighed by alpha."""
    alpha = sprite[..., 3:].astype(np.float32) / 255
    packed = np.concatenate([sprite[..., :3] * alpha, alpha], 2)
    small = cv2.resize(packed, size, interpolation=cv2.INTER_AREA)
    colour = small[..., :3] / np.maximum(small[..., 3:], 1e-3)
    return np.concatenate([np.clip(colour, 0, 255), small[..., 3:] * 255], 2).astype(np.uint8)


def rolled(sprite: np.ndarray, degrees: float) -> np.ndarray:
    """The sprite turned in the picture plane, on a canvas that holds it all."""
    if abs(degrees) < 0.5:
        return sprite
    h, w = sprite.shape[:2]
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), -degrees, 1.0)
    c, s = abs(matrix[0, 0]), abs(matrix[0, 1])
    tw, th = int(h * s + w * c) + 2, int(h * c + w * s) + 2
    matrix[:, 2] += (tw - w) / 2, (th - h) / 2
    alpha = sprite[..., 3:].astype(np.float32) / 255
    packed = np.concatenate([sprite[..., :3] * alpha, alpha * 255], 2).astype(np.uint8)
    turned = cv2.warpAffine(packed, matrix, (tw, th), flags=cv2.INTER_LINEAR).astype(np.float32)
    colour = turned[..., :3] * 255 / np.maximum(turned[..., 3:], 1)
    return np.concatenate([np.clip(colour, 0, 255), turned[..., 3:]], 2).astype(np.uint8)


def sprite_of(thing: Thing, pose: Pose, size: float) -> np.ndarray:
    """What the camera sees of a thing about ``size`` pixels long: u8[h, w, 4]."""
    if thing.solid == "tin":
        return rolled(cylinder(thing, pose, size), pose.roll)
    return faceted(thing, pose, size)


class Canvas:
    """A picture being put together: pixels u8[h, w, 3], and who is seen where: owner u8[h, w], 0 nobody."""

    def __init__(self, pixels: np.ndarray, owner: np.ndarray | None = None) -> None:
        self.pixels = np.ascontiguousarray(pixels)
        self.owner: np.ndarray = np.zeros(pixels.shape[:2], np.uint8) if owner is None else owner
        self.drawn: dict[int, int] = {}  #: pixels that each owner would fill if nothing hid it

    def _window(self, sprite: np.ndarray, x: int, y: int) -> tuple[slice, slice, np.ndarray] | None:
        h, w = self.owner.shape
        y0, x0 = max(y, 0), max(x, 0)
        y1, x1 = min(y + sprite.shape[0], h), min(x + sprite.shape[1], w)
        if y0 >= y1 or x0 >= x1:
            return None
        return slice(y0, y1), slice(x0, x1), sprite[y0 - y : y1 - y, x0 - x : x1 - x]

    def darken(self, mask: np.ndarray, x: int, y: int, depth: float, soft: float) -> None:
        """Multiply the picture by 1 - depth * blurred mask (u8, 255 is all) put at x, y."""
        pad = int(3 * soft) + 1
        framed = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        window = self._window(cv2.GaussianBlur(framed, (0, 0), soft)[..., None], x - pad, y - pad)
        if window is not None:
            rows, columns, part = window
            factor = 1 - np.float32(depth / 255) * part
            self.pixels[rows, columns] = cv2.multiply(
                self.pixels[rows, columns], cv2.merge([factor] * 3), dtype=cv2.CV_8U
            )

    def paste(self, sprite: np.ndarray, x: int, y: int, owner: int = 0) -> None:
        """Put a sprite with its top left at x, y; it hides what is behind."""
        opaque = sprite[..., 3] > 127
        if owner:
            self.drawn[owner] = int(opaque.sum())
        window = self._window(sprite, x, y)
        if window is not None:
            rows, columns, part = window
            alpha = part[..., 3:].astype(np.float32) / 255
            behind = self.pixels[rows, columns]
            self.pixels[rows, columns] = (behind * (1 - alpha) + part[..., :3] * alpha).astype(np.uint8)
            self.owner[rows, columns][part[..., 3] > 127] = owner

    def lay(self, sprite: np.ndarray, x: int, y: int, owner: int = 0, lift: float = 4.0) -> None:
        """Paste a flat thing and its shadow, thrown ``lift`` pixels down and right."""
        mask = np.ascontiguousarray(sprite[..., 3])
        self.darken(mask, x + round(lift), y + round(lift * 1.2), 0.55, max(1.0, lift * 0.8))
        self.darken(mask, x, y, 0.25, max(1.0, lift * 1.6))
        self.paste(sprite, x, y, owner)

    def stand(self, sprite: np.ndarray, x: int, y: int, owner: int = 0) -> None:
        """Paste a thing that stands on a table: a shadow falls to the right of it, darkest at its foot."""
        mask = np.ascontiguousarray(sprite[..., 3])
        h, w = mask.shape
        slant = np.asarray([[1.0, -0.55, 0.55 * h], [0, 0.32, 0.68 * h - 3]], np.float32)
        cast = cv2.warpAffine(mask, slant, (int(w + 0.6 * h), h))
        self.darken(cast, x, y, 0.5, max(2.0, h / 28))
        foot = cv2.warpAffine(
            mask, np.asarray([[1.0, 0, 0], [0, 0.12, 0.9 * h]], np.float32), (w, int(h * 1.05))
        )
        self.darken(foot, x, y, 0.6, max(1.5, h / 45))
        self.paste(sprite, x, y, owner)

    def warped(self, matrix: np.ndarray, size: tuple[int, int]) -> Canvas:
        """The canvas seen through a homography, as a new canvas of size (width, height)."""
        pixels = cv2.warpPerspective(
            self.pixels, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        owner = cv2.warpPerspective(self.owner, matrix, size, flags=cv2.INTER_NEAREST)
        canvas = Canvas(pixels, owner)
        margin = np.asarray([[1.0, 0, size[0] / 2], [0, 1, size[1] / 2], [0, 0, 1]])
        wide = cv2.warpPerspective(
            self.owner, margin @ matrix, (2 * size[0], 2 * size[1]), flags=cv2.INTER_NEAREST
        )
        for who, drawn in self.drawn.items():
            seen = max(1, int((self.owner == who).sum()))
            canvas.drawn[who] = round(drawn / seen * int((wide == who).sum()))
        return canvas

    def box(self, owner: int) -> tuple[int, int, int, int] | None:
        """The smallest box x, y, w, h around what is seen of an owner."""
        rows, columns = (
            np.nonzero((self.owner == owner).any(1))[0],
            np.nonzero((self.owner == owner).any(0))[0],
        )
        if not len(rows):
            return None
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y

    def visible(self, owner: int) -> float:
        """The share of an owner that is neither hidden nor outside the picture."""
        return float((self.owner == owner).sum()) / max(1, self.drawn.get(owner, 0))
