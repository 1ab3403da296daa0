"""Portraits: the testbed's counterpart of CelebA-HQ. People whose every trait is known.

The head is drawn on a unit of its own, tilted, scaled and moved as a whole; turning it (yaw) slides its features along
a sphere. Light falls from the upper left. Four styles share one drawing: they differ in the strength of shading and
contours and in what becomes of the colours at the end.
"""

import math

import torch
from torch import Tensor

from . import sdf
from .scene import Factor, Scene, Values, palette, per_picture

BACKGROUNDS = {
    "blue": (0.42, 0.66, 0.90),
    "green": (0.47, 0.74, 0.50),
    "yellow": (0.97, 0.83, 0.42),
    "pink": (0.96, 0.66, 0.73),
    "grey": (0.70, 0.71, 0.73),
}
HAIR = {
    "black": (0.11, 0.10, 0.13),
    "brown": (0.40, 0.24, 0.13),
    "red": (0.74, 0.27, 0.10),
    "blonde": (0.93, 0.76, 0.38),
    "grey": (0.77, 0.78, 0.81),
}
CLOTHES = {
    "white": (0.95, 0.94, 0.92),
    "red": (0.80, 0.20, 0.22),
    "navy": (0.15, 0.20, 0.42),
    "teal": (0.10, 0.55, 0.53),
    "purple": (0.50, 0.30, 0.62),
}
LIGHT_SKIN, DARK_SKIN = (0.98, 0.84, 0.73), (0.45, 0.27, 0.18)
PAPER, GRAPHITE = (0.97, 0.96, 0.93), (0.20, 0.20, 0.23)
POSTER = ((0.07, 0.16, 0.29), (0.80, 0.16, 0.16), (0.95, 0.62, 0.36), (0.99, 0.93, 0.80))
POSTER_GROUND = (0.40, 0.64, 0.68)

COLOURED = {"style": ("photo", "drawing")}
DRAWN = {"style": ("photo", "drawing", "sketch")}

FACTORS = (
    Factor("yaw", "coarse", range=(-28.0, 28.0), unit="deg"),
    Factor("tilt", "coarse", range=(-12.0, 12.0), unit="deg"),
    Factor("x", "coarse", range=(-0.15, 0.15), unit="half widths"),
    Factor("size", "coarse", range=(0.88, 1.12), unit="of the mean"),
    Factor("gender", "middle", ("female", "male")),
    Factor("age", "middle", ("young", "old")),
    Factor("hair_length", "middle", ("short", "medium", "long")),
    Factor("beard", "middle", ("none", "moustache", "full"), (0.6, 0.15, 0.25), visible_if=DRAWN),
    Factor("glasses", "middle", ("none", "glasses"), (0.6, 0.4)),
    Factor("smile", "middle", ("neutral", "smiling")),
    Factor("style", "middle", ("photo", "drawing", "sketch", "poster"), (0.7, 0.1, 0.1, 0.1)),
    Factor("skin", "fine", range=(0.0, 1.0), unit="light to dark", visible_if=COLOURED),
    Factor("hair_colour", "fine", tuple(HAIR), visible_if=COLOURED),
    Factor("background", "fine", tuple(BACKGROUNDS), visible_if=COLOURED),
    Factor("clothes", "fine", tuple(CLOTHES), visible_if=COLOURED),
    Factor("pattern", "fine", ("plain", "striped", "dotted"), visible_if=COLOURED),
    Factor("wrinkles", "fine", range=(0.0, 1.0), unit="faint to deep", visible_if={"age": ("old",), **COLOURED}),
    Factor("freckles", "fine", ("none", "freckles"), (0.7, 0.3), visible_if=COLOURED),
    Factor("earrings", "fine", ("none", "earrings"), (0.65, 0.35), visible_if=COLOURED),
)


def draw(values: Values, size: int) -> Tensor:
    """Portraits of shape (n, 3, size, size), float32, nominally in [0, 1]."""
    return _Painter(values, size).picture()


class _Painter:
    """One batch of portraits being painted: the frame of the head, the colours, then one method for each part."""

    def __init__(self, values: Values, size: int):
        n, device = len(values["yaw"]), values["yaw"].device
        style = PORTRAITS.factor("style").levels
        is_style = {name: (values["style"] == i).float() for i, name in enumerate(style)}
        ink = is_style["drawing"] + 0.9 * is_style["sketch"]
        c = self.canvas = sdf.Canvas(n, size, ink=ink, device=device)
        self.is_style = {name: mask.view(n, 1, 1) for name, mask in is_style.items()}
        self.depth = self.is_style["photo"] + 0.55 * self.is_style["sketch"] + 0.6 * self.is_style["poster"]

        def has(name: str, level: str) -> Tensor:
            return per_picture(values[name] == PORTRAITS.index(name, level))

        self.male, self.old = has("gender", "male"), has("age", "old")
        self.medium, self.long = has("hair_length", "medium"), has("hair_length", "long")
        self.moustache, self.full = has("beard", "moustache"), has("beard", "full")
        self.glasses, self.smile = has("glasses", "glasses"), has("smile", "smiling")
        self.striped, self.dotted = has("pattern", "striped"), has("pattern", "dotted")
        self.freckles, self.earrings = has("freckles", "freckles"), has("earrings", "earrings")
        self.wrinkles = per_picture(values["wrinkles"])

        light, dark = (torch.tensor(t, device=device) for t in (LIGHT_SKIN, DARK_SKIN))
        self.skin = torch.lerp(light, dark, values["skin"].float().view(n, 1))
        self.skin_shadow = self.skin * torch.tensor([0.80, 0.72, 0.70], device=device)
        # Lines and freckles: darker still on dark skin, where the same ratio would be a smaller step.
        self.skin_line = self.skin_shadow * (0.56 - 0.30 * values["skin"].float().view(n, 1))
        hair = palette(HAIR, tuple(HAIR), values["hair_colour"])
        self.hair = hair
        self.hair_dark, self.hair_light = hair * 0.72, 1 - (1 - hair) * 0.80
        self.background = palette(BACKGROUNDS, tuple(BACKGROUNDS), values["background"])
        self.clothes = palette(CLOTHES, tuple(CLOTHES), values["clothes"])

        self.person = torch.zeros_like(c.rgb[:, 0])
        self.yaw = per_picture(values["yaw"]) * math.pi / 180
        tilt = per_picture(values["tilt"]) * math.pi / 180
        self.scale = 1.15 * per_picture(values["size"])
        # The body stands upright; the head turns about the neck, below it.
        self.bx = (c.x - per_picture(values["x"])) / self.scale
        self.by = (c.y + 0.06) / self.scale
        u, v = sdf.rotate(self.bx, self.by - 0.55, tilt)
        self.u, self.v = u, v + 0.60
        self.tilt = tilt
        c.pixel = (c.pixel / self.scale).expand(n, 1, 1)

    def figure(self, cover: Tensor) -> Tensor:
        """Note that these pixels belong to the person, not to the background."""
        self.person = torch.maximum(self.person, cover)
        return cover

    def colour(self, r: float, g: float, b: float) -> Tensor:
        return torch.tensor([[r, g, b]], device=self.skin.device)

    def at(self, longitude: float, radius: float = 0.40) -> tuple[Tensor, Tensor]:
        """Where a feature at a longitude (radians, 0 = nose) comes to lie across the face, and its foreshortening."""
        angle = self.yaw + longitude
        return radius * torch.sin(angle), torch.cos(angle).clamp_min(0.05)

    def picture(self) -> Tensor:
        self.paint_background()
        self.paint_clothes()
        self.paint_back_hair()
        self.paint_neck()
        self.paint_ears()
        self.paint_head()
        self.paint_skin_marks()
        self.paint_nose()
        self.paint_mouth()
        self.paint_beard()
        self.paint_eyes()
        self.paint_front_hair()
        self.paint_brows()
        self.paint_glasses()
        self.paint_earrings()
        return self.finish()

    def paint_background(self) -> None:
        c = self.canvas
        c.rgb = self.background[..., None, None].expand_as(c.rgb).clone()
        c.shade(self.is_style["photo"] * (0.14 - 0.16 * (c.x**2 + (c.y + 0.2) ** 2)))

    def paint_clothes(self) -> None:
        c, x, y = self.canvas, self.bx, self.by
        width = 0.60 + 0.14 * self.male
        body = sdf.box(x, y - 1.38, width, 0.78, 0.40)
        cover = self.figure(c.paint(body, self.clothes, outline=0.014))
        c.shade(cover * self.depth * (-0.25 * (x.abs() / width) ** 2 + 0.06 - 0.10 * x))
        light = (self.clothes.mean(1) > 0.6).float().view(-1, 1)
        accent = torch.lerp(1 - (1 - self.clothes) * 0.35, self.colour(0.25, 0.42, 0.70).expand_as(self.clothes), light)
        stripes = c.cover((torch.remainder(y, 0.15) - 0.075).abs() - 0.032)
        c.blend(accent, cover * stripes * self.striped)
        row = torch.floor(y / 0.13)
        dx = torch.remainder(x + 0.08 * torch.remainder(row, 2), 0.16) - 0.08
        dots = c.cover(sdf.circle(dx, torch.remainder(y, 0.13) - 0.065, 0.034))
        c.blend(accent, cover * dots * self.dotted)

    def paint_back_hair(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        shift = 0.05 * torch.sin(self.yaw)
        u = u + shift
        top = sdf.ellipse(u, v + 0.13, 0.475, 0.475)
        medium = sdf.box(u, v - 0.10, 0.475, 0.40, 0.20)
        flare = 0.47 + 0.07 * (v / 0.7).clamp(-0.5, 1.2)
        long = sdf.box(u, v - 0.36, flare, 0.66, 0.16)
        # Long hair parts over the chest, so that the clothes can be seen.
        long = sdf.subtract(long, sdf.box(self.bx, self.by - 1.05, 0.23, 0.46, 0.10))
        lower = torch.where(self.long > 0, long, medium)
        hair = torch.where(self.medium + self.long > 0, sdf.smooth_union(top, lower, 0.08), top + 10)
        cover = self.figure(c.paint(hair, self.hair_dark, outline=0.014))
        strands = 0.10 * torch.sin(46 * u + 3 * torch.sin(3 * v)) + 0.12 * (u.abs() > 0.33)
        c.shade(cover * self.depth * strands)

    def paint_neck(self) -> None:
        c = self.canvas
        width = 0.150 + 0.055 * self.male
        x = self.bx - 0.4 * torch.sin(self.tilt) * (0.75 - self.by).clamp(0, 0.6)
        neck = sdf.box(x, self.by - 0.44, width, 0.32, 0.13)
        neckline = sdf.ellipse(self.bx, self.by - 0.62, width * 1.50, 0.13)
        cover = self.figure(c.paint(sdf.smooth_union(neck, neckline, 0.06), self.skin, outline=0.012))
        shadow = c.cover(sdf.ellipse(self.u - 0.03, self.v - 0.36, 0.34, 0.34), 0.12)
        c.blend(self.skin_shadow, cover * shadow * self.depth)

    def paint_ears(self) -> None:
        c = self.canvas
        for side in (-1, 1):
            x, _ = self.at(side * 1.52, 0.405)
            ear = sdf.ellipse(self.u - x, self.v - 0.06, 0.085, 0.125)
            self.figure(c.paint(ear, self.skin, outline=0.012))
            inner = sdf.ellipse(self.u - x - side * 0.012, self.v - 0.06, 0.045, 0.075)
            c.paint(inner, self.skin_shadow, 0.8 * self.depth, soft=0.03)

    def head(self) -> Tensor:
        """Distance to the outline of the face."""
        u, v = self.u - 0.02 * torch.sin(self.yaw), self.v
        skull = sdf.ellipse(u, v + 0.06, 0.405, 0.455)
        chin_x = u - 0.10 * torch.sin(self.yaw)
        jaw_width = 0.245 + 0.085 * self.male + 0.02 * self.old
        jaw = sdf.box(chin_x, v - 0.245, jaw_width, 0.235 + 0.02 * self.male, 0.19 - 0.03 * self.male)
        jowls = sdf.ellipse(chin_x.abs() - 0.24, v - 0.30, 0.11, 0.13) + (1 - self.old)
        return sdf.smooth_union(sdf.smooth_union(skull, jaw, 0.18), jowls, 0.05)

    def paint_head(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        self.face = self.head()
        self.face_cover = cover = self.figure(c.paint(self.face, self.skin, outline=0.014))
        side = (u - 0.35 * torch.sin(self.yaw) - 0.02) / 0.45
        round_off = -0.20 * side.clamp_min(0) ** 2 - 0.07 * side.clamp_max(0) ** 2 + 0.05 * (-v).clamp_min(0)
        c.shade(cover * self.depth * (round_off + 0.03))
        rim = c.cover(self.face + 0.05, 0.10)
        c.blend(self.skin_shadow, cover * (1 - rim) * 0.45 * self.depth)

    def paint_skin_marks(self) -> None:
        c, u, v, cover = self.canvas, self.u, self.v, self.face_cover
        blush = torch.lerp(self.skin, self.colour(0.90, 0.32, 0.30).expand_as(self.skin), 0.5)
        for side in (-1, 1):
            x, f = self.at(side * 0.62)
            cheek = c.cover(sdf.ellipse(u - x, v - 0.17, 0.11 * f, 0.08), 0.12)
            c.blend(blush, cover * cheek * (0.30 + 0.45 * self.smile) * (1 - 0.5 * self.old) * self.depth)
            spots = [(0.42, 0.125), (0.58, 0.10), (0.74, 0.13), (0.50, 0.185), (0.66, 0.19), (0.34, 0.18), (0.82, 0.20)]
            for longitude, height in spots:
                x, f = self.at(side * longitude)
                c.paint(sdf.circle((u - x) / f, v - height, 0.0165), self.skin_line * 1.15, cover * self.freckles)
        # Lines of age: forehead, frown, crow's feet, bags under the eyes, and the folds from nose to mouth.
        line = self.skin_line
        depth = self.old * (0.15 + 0.85 * self.wrinkles) * cover
        centre, f = self.at(0.0)
        for height, width in ((-0.30, 0.15), (-0.245, 0.18), (-0.19, 0.14)):
            c.paint(sdf.arc(u - centre, v - height, width * f, -0.02, 0.0105), line, depth, soft=0.008)
        for side in (-1, 1):
            x, f = self.at(side * 0.42)
            c.paint(sdf.arc(u - x, v - 0.105, 0.085 * f, 0.035, 0.010), line, depth, soft=0.01)
            c.paint(sdf.arc(u - x, v - 0.14, 0.065 * f, 0.03, 0.008), line, 0.8 * depth, soft=0.01)
            near, _ = self.at(side * 0.24)
            far, _ = self.at(side * 0.47)
            c.paint(sdf.segment(u, v, near, 0.185, far, 0.355, 0.0125), line, depth, soft=0.012)
            eye, _ = self.at(side * 0.80)
            end, _ = self.at(side * 1.02)
            for rise in (-0.055, 0.0, 0.055):
                c.paint(sdf.segment(u, v, eye, 0.02 + 0.3 * rise, end, 0.02 + rise, 0.008), line, depth, soft=0.008)

    def paint_nose(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        x, _ = self.at(0.0, 0.47)
        base, _ = self.at(0.0, 0.40)
        width = 0.058 + 0.012 * self.male + 0.012 * self.old
        dark = self.skin_shadow * 0.80
        c.paint(sdf.segment(u, v, base + 0.025, -0.04, x + 0.035, 0.135, 0.018), dark, 0.55 * self.depth, soft=0.04)
        c.paint(
            sdf.segment(u, v, base - 0.012, -0.06, x - 0.012, 0.12, 0.014),
            1 - (1 - self.skin) * 0.65,
            0.5 * self.depth,
            soft=0.035,
        )
        c.paint(sdf.arc(u - x, v - 0.135, width, 0.045, 0.011), dark * 0.85, soft=0.004)
        for side in (-1, 1):
            c.paint(sdf.circle(u - x - side * width * 0.92, v - 0.138, 0.017), dark * 0.85, soft=0.012)

    def paint_mouth(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        x, f = self.at(0.0, 0.41)
        u, v = u - x, v - 0.285
        fullness = (0.034 + 0.012 * (1 - self.male)) * (1 - 0.30 * self.old)
        rouge = torch.lerp(self.skin * 0.80, self.colour(0.72, 0.20, 0.24).expand_as(self.skin), 0.45)
        lips = torch.lerp(rouge, self.colour(0.80, 0.10, 0.20).expand_as(rouge), (0.72 * (1 - self.male)).view(-1, 1))
        inside = self.colour(0.42, 0.08, 0.10)
        # Closed: two lips and the line between them. Open: a crescent with teeth.
        w = 0.135 * f
        closed = 1 - self.smile
        c.paint(sdf.ellipse(u, v - 0.006, w, fullness * 1.05), lips, closed, soft=0.004)
        c.paint(sdf.arc(u, v, w * 0.98, 0.008, 0.0085), lips * 0.50, closed)
        w = 0.185 * f
        bend = 0.115 * (1 - (u / w) ** 2)
        crescent = torch.maximum(torch.maximum(v + 0.035 - bend, -(v + 0.035) + 0.30 * bend), u.abs() - w)
        c.paint(crescent - 0.024, lips, self.smile)
        c.paint(crescent, inside, self.smile)
        teeth = torch.maximum(crescent, v + 0.035 - 0.70 * bend)
        c.paint(teeth, self.colour(0.99, 0.98, 0.95), self.smile)
        for side in (-1, 1):
            c.paint(
                sdf.circle(u - side * (w + 0.018), v + 0.035, 0.018),
                self.skin_shadow * 0.85,
                0.7 * self.smile,
                soft=0.02,
            )

    def paint_beard(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        x, f = self.at(0.0, 0.43)
        any_beard = self.moustache + self.full
        gap = sdf.ellipse(u - x, v - 0.295, 0.155 * f + 0.055 * self.smile, 0.048 + 0.045 * self.smile)
        chin_x = u - 0.10 * torch.sin(self.yaw)
        cheek = v - 0.13 - 0.22 * (1 - ((chin_x / 0.33) ** 2).clamp_max(1))
        beard = sdf.intersect(self.face - 0.028, -cheek)
        beard = sdf.subtract(beard, gap)
        cover = c.paint(beard, self.hair, self.full, outline=0.011)
        c.shade(
            cover
            * self.full
            * self.depth
            * (0.13 * torch.sin(52 * u + 6 * torch.sin(9 * v)) - 0.10 - 0.25 * (v - 0.35))
        )
        left = sdf.arc(u - x + 0.078 * f, v - 0.228, 0.088 * f, -0.030, 0.030)
        right = sdf.arc(u - x - 0.078 * f, v - 0.228, 0.088 * f, -0.030, 0.030)
        c.paint(sdf.smooth_union(left, right, 0.02), self.hair_dark, any_beard, outline=0.008)

    def paint_eyes(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        self.eyes = []
        height = 0.060 * (1 - 0.20 * self.old) * (1 + 0.08 * (1 - self.male)) * (1 - 0.12 * self.smile)
        lid = self.colour(0.14, 0.09, 0.09)
        for side in (-1, 1):
            x, f = self.at(side * 0.44)
            self.eyes.append((x, f))
            ex, ey = u - x, v - 0.02
            w = 0.088 * f
            white = sdf.ellipse(ex, ey, w, height)
            c.paint(sdf.ellipse(ex, ey + 0.01, w * 1.30, height * 1.55), self.skin_shadow, 0.40 * self.depth, soft=0.05)
            cover = c.paint(white, self.colour(0.98, 0.97, 0.96))
            ix = ex - 0.022 * torch.sin(self.yaw)
            iris = sdf.circle(ix / f.clamp_min(0.5), ey, 0.047)
            c.paint(iris, self.colour(0.30, 0.20, 0.13), cover)
            c.paint(sdf.circle(ix / f.clamp_min(0.5), ey, 0.026), self.colour(0.05, 0.04, 0.05), cover)
            c.paint(sdf.circle(ix + 0.016, ey + 0.017, 0.013), self.colour(1.0, 1.0, 1.0), cover)
            c.paint(sdf.arc(ex, ey, w * 1.08, -height, 0.0105 + 0.008 * (1 - self.male)), lid)
            female = 1 - self.male
            c.paint(sdf.segment(ex, ey, side * w * 0.95, -0.010, side * (w + 0.045), -0.050, 0.0105), lid, female)
            c.paint(
                sdf.segment(ex, ey, side * w * 0.60, -height * 0.8, side * (w * 0.6 + 0.035), -height - 0.03, 0.008),
                lid,
                female,
            )
            # The lid of an old eye hangs over its outer corner.
            hood = sdf.segment(ex, ey, -side * w * 0.8, -height * 1.25, side * w * 1.25, -0.012, 0.013)
            c.paint(hood, self.skin_shadow * 0.85, self.old, soft=0.008)

    def paint_brows(self) -> None:
        c = self.canvas
        thick = 0.017 + 0.013 * self.male + 0.004 * self.old
        colour = torch.lerp(
            self.hair_dark * 0.9, self.colour(0.80, 0.80, 0.81).expand_as(self.hair), 0.65 * self.old.view(-1, 1)
        )
        for side, (x, f) in zip((-1, 1), self.eyes, strict=True):
            ex, ey = self.u - x, self.v + 0.115 - 0.012 * self.male + 0.010 * self.smile
            slope = 0.10 * side * ex - 0.25 * side * ex * self.old
            bow = -0.028 + 0.018 * self.male
            c.paint(sdf.arc(ex, ey + slope, 0.105 * f, bow, thick), colour, outline=0.004)

    def paint_front_hair(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        u = u + 0.03 * torch.sin(self.yaw)
        cap = sdf.ellipse(u, v + 0.135, 0.455, 0.455)
        x, f = self.at(0.0, 0.30)
        # The hairline: an arch over the forehead, higher and squarer with age; longer hair frames the cheeks.
        framed = self.medium + self.long
        arch = sdf.ellipse(self.u - x * 0.9, v - 0.10, 0.345 - 0.035 * framed, 0.40 + 0.075 * self.old)
        temples = sdf.ellipse((self.u - x * 0.9).abs() - 0.20, v + 0.26, 0.115, 0.13) + (1 - self.old) + framed
        parting = sdf.ellipse(self.u - x + 0.14, v + 0.20, 0.17, 0.10) + self.old
        window = sdf.smooth_union(sdf.union(arch, parting), temples, 0.05)
        lower = torch.where(framed > 0, sdf.box(u, v - 0.05, 0.46, 0.34, 0.16), cap)
        shape = sdf.union(cap, lower)
        reach = torch.where(framed > 0, v - 0.34, v - 0.02)
        hair = sdf.intersect(sdf.subtract(shape, window), reach)
        hair = torch.where(
            framed > 0, sdf.intersect(hair, torch.maximum(hair, -(self.face + 0.16) - 10 * (v < -0.2))), hair
        )
        cover = self.figure(c.paint(hair, self.hair, outline=0.014))
        angle = torch.atan2(v - 0.35, u + 0.10)
        strands = 0.09 * torch.sin(40 * angle) + 0.05 * torch.sin(93 * angle + 1.0)
        gloss = torch.exp(-(((torch.sqrt(u * u + (v + 0.05) ** 2) - 0.40) / 0.05) ** 2)) * torch.exp(
            -(((u + 0.16) / 0.16) ** 2)
        )
        c.shade(cover * self.depth * (strands - 0.10 * u / 0.45))
        c.blend(self.hair_light, cover * gloss * (v < -0.1) * 0.8 * self.depth)
        # Grey at the temples is a mark of age, whatever the colour.
        temple = torch.exp(-((((u.abs() - 0.40) / 0.07) ** 2) + ((v + 0.06) / 0.16) ** 2))
        c.blend(self.colour(0.80, 0.80, 0.82), cover * temple * 0.75 * self.old)

    def paint_glasses(self) -> None:
        c, u, v = self.canvas, self.u, self.v
        frame = self.colour(0.10, 0.10, 0.12)
        (x0, _), (x1, _) = self.eyes
        for side, (x, f) in zip((-1, 1), self.eyes, strict=True):
            x = x * 1.06
            rim = sdf.box(u - x, v - 0.03, 0.150 * f, 0.118, 0.085 * f)
            c.paint(rim, self.colour(0.86, 0.94, 1.0), 0.20 * self.glasses)
            glint = sdf.intersect(rim + 0.03, (u - x + 0.6 * (v - 0.03) + 0.03).abs() - 0.018)
            c.paint(glint, self.colour(1.0, 1.0, 1.0), 0.40 * self.glasses * self.depth, soft=0.01)
            c.paint(rim.abs() - 0.0165, frame, self.glasses)
            ear, _ = self.at(side * 1.30, 0.41)
            c.paint(sdf.segment(u, v, x + side * 0.150 * f, 0.0, ear, -0.01, 0.013), frame, self.glasses)
        bridge = sdf.segment(
            u, v, x0 * 1.06 + 0.150 * self.eyes[0][1], 0.0, x1 * 1.06 - 0.150 * self.eyes[1][1], 0.0, 0.013
        )
        c.paint(bridge, frame, self.glasses)

    def paint_earrings(self) -> None:
        c = self.canvas
        gold = self.colour(1.0, 0.80, 0.18)
        for side in (-1, 1):
            x, _ = self.at(side * 1.52, 0.425)
            drop = sdf.circle(self.u - x - side * 0.01, self.v - 0.245, 0.046)
            c.paint(drop, self.colour(0.50, 0.34, 0.04), self.earrings)
            c.paint(drop + 0.012, gold, self.earrings)
            c.paint(sdf.circle(self.u - x + 0.004, self.v - 0.232, 0.013), self.colour(1.0, 0.97, 0.80), self.earrings)

    def finish(self) -> Tensor:
        """Turn the painting into its style: as it is, flat with contours, pencil on paper, or a printed poster."""
        c, rgb = self.canvas, self.canvas.rgb
        light = (0.30 * rgb[:, 0] + 0.55 * rgb[:, 1] + 0.15 * rgb[:, 2]).clamp(0, 1)
        if bool((self.is_style["sketch"] > 0).any()):
            hatch = 0.5 + 0.5 * torch.sin(70 * (c.x + c.y))
            tone = ((0.86 - light) * 1.25).clamp(0, 1)
            graphite = (tone * (0.45 + 0.35 * hatch + 0.55 * tone)).clamp(0, 1)
            paper, pencil = (torch.tensor(t, device=rgb.device).view(1, 3, 1, 1) for t in (PAPER, GRAPHITE))
            sketch = torch.lerp(paper.expand_as(rgb), pencil.expand_as(rgb), graphite.unsqueeze(1))
            rgb = torch.lerp(rgb, sketch, self.is_style["sketch"].unsqueeze(1))
        if bool((self.is_style["poster"] > 0).any()):
            inks = torch.tensor(POSTER, device=rgb.device)
            poster = inks[0].view(1, 3, 1, 1).expand_as(rgb)
            for threshold, ink in zip((0.25, 0.46, 0.74), inks[1:], strict=True):
                step = ((light - threshold) * 40 + 0.5).clamp(0, 1)
                poster = torch.lerp(poster, ink.view(1, 3, 1, 1).expand_as(rgb), step.unsqueeze(1))
            ground = torch.tensor(POSTER_GROUND, device=rgb.device).view(1, 3, 1, 1).expand_as(rgb)
            poster = torch.lerp(ground, poster, self.person.unsqueeze(1))
            rgb = torch.lerp(rgb, poster, self.is_style["poster"].unsqueeze(1))
        return rgb


PORTRAITS = Scene("portraits", FACTORS, draw)
