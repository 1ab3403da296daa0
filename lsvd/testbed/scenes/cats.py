"""Cats: a sitting cat from the chest up, the counterpart of LSUN-Cat.

The head is a sphere: what lies on it moves as the sphere turns. All of the cat is drawn in its own frame, in units of
its size, with the origin in the middle of the head.
"""

import math

import torch
from torch import Tensor

from .scene import Factor, Scene, Values, palette, per_picture
from .sdf import (
    Canvas,
    arc,
    box,
    circle,
    ellipse,
    intersect,
    rotate,
    segment,
    smooth_intersect,
    smooth_union,
    taper,
    triangle,
    union,
)

FUR = {
    "ginger": (0.97, 0.62, 0.27),
    "black": (0.19, 0.19, 0.23),
    "white": (0.98, 0.96, 0.94),
    "grey": (0.60, 0.64, 0.71),
    "brown": (0.56, 0.37, 0.25),
}
FUR_SHADOW = {
    "ginger": (0.82, 0.40, 0.16),
    "black": (0.08, 0.07, 0.12),
    "white": (0.76, 0.74, 0.84),
    "grey": (0.38, 0.41, 0.52),
    "brown": (0.36, 0.20, 0.15),
}
FUR_LIGHT = {
    "ginger": (1.00, 0.80, 0.52),
    "black": (0.34, 0.34, 0.41),
    "white": (1.00, 1.00, 1.00),
    "grey": (0.77, 0.80, 0.86),
    "brown": (0.74, 0.54, 0.39),
}
STRIPE = {
    "ginger": (0.74, 0.32, 0.07),
    "black": (0.47, 0.47, 0.56),
    "white": (0.68, 0.64, 0.68),
    "grey": (0.30, 0.32, 0.41),
    "brown": (0.25, 0.13, 0.08),
}
LINE = {
    "ginger": (0.36, 0.15, 0.08),
    "black": (0.80, 0.80, 0.86),
    "white": (0.27, 0.24, 0.30),
    "grey": (0.15, 0.16, 0.23),
    "brown": (0.13, 0.06, 0.04),
}
EYE = {"green": (0.40, 0.82, 0.33), "blue": (0.25, 0.62, 1.00), "amber": (1.00, 0.66, 0.08)}
EYE_DEEP = {"green": (0.13, 0.50, 0.24), "blue": (0.08, 0.30, 0.78), "amber": (0.82, 0.36, 0.02)}
WALL_TOP = {
    "blue": (0.56, 0.79, 0.98),
    "green": (0.58, 0.86, 0.62),
    "pink": (1.00, 0.74, 0.80),
    "yellow": (1.00, 0.91, 0.52),
    "violet": (0.73, 0.65, 0.96),
}
WALL_BOTTOM = {
    "blue": (0.22, 0.50, 0.84),
    "green": (0.20, 0.60, 0.42),
    "pink": (0.93, 0.45, 0.60),
    "yellow": (0.97, 0.71, 0.22),
    "violet": (0.46, 0.35, 0.78),
}


def draw(values: Values, size: int) -> Tensor:
    """Paint cats: shape (n, 3, size, size)."""
    device = values["yaw"].device
    c = Canvas(len(values["yaw"]), size, device=device)

    def is_(name: str, level: str) -> Tensor:
        return per_picture(values[name] == CATS.index(name, level))

    def colours(table, name: str) -> Tensor:
        return palette(table, CATS.factor(name).levels, values[name])

    def flat(r: float, g: float, b: float) -> Tensor:
        return torch.tensor([[r, g, b]], device=device)

    scale = per_picture(values["size"])
    u = (c.x - per_picture(values["x"])) / scale
    v = (c.y + 0.10) / scale
    p, q = rotate(u, v - 0.45, torch.deg2rad(per_picture(values["tilt"])))
    q = q + 0.45
    yaw = torch.deg2rad(per_picture(values["yaw"]))
    turn, facing = torch.sin(yaw), torch.cos(yaw)

    def fill(d, colour, alpha=1.0, soft=0.0) -> Tensor:
        return c.paint(d * scale, colour, alpha, soft=soft)

    fur, shadow, light = colours(FUR, "fur"), colours(FUR_SHADOW, "fur"), colours(FUR_LIGHT, "fur")
    stripe, line = colours(STRIPE, "fur"), colours(LINE, "fur")
    striped, fluffy, folded = is_("stripes", "striped"), is_("fluff", "long"), is_("ears", "folded")
    bib, white = is_("bib", "white") * (1 - is_("fur", "white")), flat(1.0, 0.99, 0.97)
    pink, dark = flat(0.96, 0.58, 0.60), flat(0.10, 0.08, 0.12)
    mark = torch.lerp(light, white, bib.view(-1, 1))  # muzzle and chest

    # Wall: a gradient, and a pale disc of light behind the cat.
    c.blend(colours(WALL_TOP, "background"), torch.ones_like(c.x))
    c.blend(colours(WALL_BOTTOM, "background"), (0.5 + 0.5 * c.y).square())
    c.paint(circle(c.x, c.y + 0.05, 0.80), flat(1.0, 1.0, 1.0), 0.22)

    # Tail, body, chest.
    along = v.clamp(min=0.52) - 0.78  # the tail is a stroke along a curve u(v)
    bend = torch.where(along > 0, -2.0, -1.2) * along
    across = (u - 0.79 - bend * along) / torch.sqrt(1 + 4 * bend * bend)
    tail = torch.sqrt(across * across + (v - along - 0.78).square() + 1e-12) - (0.085 + 0.05 * along)
    cover = fill(tail, fur)
    c.blend(stripe, cover * striped * (c.cover((torch.remainder(v - 0.50, 0.22) - 0.11).abs() * scale - 0.055 * scale)))
    c.blend(shadow, cover * ((u - 0.66) * 2.5).clamp(0, 0.5))
    side = u.abs()
    body = smooth_union(ellipse(u, v - 1.20, 0.56, 0.72), ellipse(u, v - 0.62, 0.36, 0.34), 0.15)
    cover = fill(body, fur)
    stripes = union(
        taper(side, v, 0.62, 0.72, 0.27, 0.80, 0.075, 0.01), taper(side, v, 0.66, 1.00, 0.33, 1.06, 0.075, 0.01)
    )
    c.blend(stripe, cover * c.cover(stripes * scale) * striped)
    c.blend(shadow, cover * (0.35 * (u + 0.1) / 0.6 + 0.35 * (v - 0.7)).clamp(0, 0.6))
    chest = ellipse(u, v - 0.66, 0.25, 0.36)
    zigzag = (torch.remainder(u / 0.17 + 0.5, 1.0) - 0.5).abs() * 0.20
    chest = torch.where(fluffy > 0, ellipse(u, v - 0.66 + zigzag, 0.33, 0.40), chest)
    fill(intersect(chest, body), mark, 0.45 + 0.55 * bib)
    fill(segment(side, v, 0.0, 1.12, 0.0, 1.6, 0.012), shadow, 0.8)
    fill(taper(side, v, 0.27, 1.08, 0.25, 1.6, 0.004, 0.02), shadow, 0.7)
    lean = 0.4 * torch.sin(torch.deg2rad(per_picture(values["tilt"])))
    c.blend(shadow, 0.65 * c.cover(body * scale) * c.cover(ellipse(u - lean, v - 0.38, 0.44, 0.18) * scale, 0.15))

    # Collar: a band with a bell, or a bow.
    bell, bow = is_("collar", "bell"), is_("collar", "bow")
    fill(intersect(arc(u, v - 0.47, 0.40, 0.10, 0.05), body - 0.015), flat(0.86, 0.13, 0.20), bell)
    fill(circle(u, v - 0.64, 0.095), flat(0.62, 0.36, 0.02), bell)
    fill(circle(u, v - 0.635, 0.078), flat(1.00, 0.82, 0.20), bell)
    fill(segment(u, v - 0.665, 0.0, 0.0, 0.0, 0.05, 0.014), flat(0.45, 0.24, 0.02), bell)
    fill(circle(u + 0.028, v - 0.607, 0.022), flat(1.0, 0.97, 0.75), bell)
    wing = smooth_intersect(
        triangle(side, v - 0.62, 0.0, 0.0, 0.31, -0.17, 0.31, 0.17), box(side, v - 0.62, 0.27, 0.17, 0.03), 0.04
    )
    fill(wing, flat(0.20, 0.36, 0.86), bow)
    fill(intersect(wing, circle(side - 0.02, v - 0.62, 0.12)), flat(0.11, 0.20, 0.58), bow, soft=0.05)
    fill(box(u, v - 0.62, 0.062, 0.075, 0.035), flat(0.34, 0.52, 0.98), bow)

    # Pointed ears stand behind the head, folded ones lie on it.
    ear_side = (p - 0.06 * turn).abs()
    ex, ey = rotate(ear_side - 0.31 * facing, q + 0.21, math.radians(17))
    leaf = smooth_intersect(circle(ex + 0.43, ey, 0.64), circle(ex - 0.43, ey, 0.64), 0.06)
    cover = fill(leaf, fur, 1 - folded)
    c.blend(shadow, cover * (1 - folded) * (0.9 * (ear_side - 0.30)).clamp(0, 0.5))
    inner = smooth_intersect(circle(ex + 0.51, ey - 0.03, 0.64), circle(ex - 0.51, ey - 0.03, 0.64), 0.04)
    fill(inner, pink, 1 - folded)

    # Head, with tufts on the cheeks if the fur is long.
    head = smooth_union(ellipse(p, q, 0.50, 0.42), ellipse(p, q - 0.10, 0.54, 0.33), 0.10)
    cheek = (p - 0.03 * turn).abs()
    tufts = union(
        triangle(cheek, q, 0.36, -0.14, 0.70, 0.05, 0.40, 0.17),
        union(
            triangle(cheek, q, 0.34, 0.02, 0.69, 0.24, 0.34, 0.28),
            triangle(cheek, q, 0.28, 0.14, 0.56, 0.42, 0.20, 0.38),
        ),
    )
    crown = triangle(cheek, q, -0.10, -0.36, 0.035, -0.56, 0.12, -0.36)
    head = torch.where(fluffy > 0, smooth_union(head, union(tufts, crown), 0.03), head)
    cover = fill(head, fur)
    forehead = (p - 0.34 * turn).abs()
    cheek = (p - 0.22 * turn).abs()
    stripes = union(
        union(
            taper(forehead, q, 0.0, -0.46, 0.0, -0.22, 0.050, 0.018),
            taper(forehead, q, 0.17, -0.46, 0.115, -0.23, 0.050, 0.018),
        ),
        union(
            taper(cheek, q, 0.66, 0.04, 0.36, 0.09, 0.055, 0.012), taper(cheek, q, 0.62, 0.22, 0.36, 0.20, 0.055, 0.012)
        ),
    )
    c.blend(stripe, cover * c.cover(stripes * scale) * striped)
    c.blend(shadow, cover * (0.55 * (0.55 * p + q) - 0.02).clamp(0, 0.5))
    c.blend(light, cover * (-0.9 * (0.5 * p + q) - 0.12).clamp(0, 0.5) * (1 - 0.5 * striped))
    fx, fy = rotate(ear_side - 0.34 * facing, q + 0.36, math.radians(35))
    flap = smooth_intersect(ellipse(fx, fy, 0.23, 0.13), ellipse(fx - 0.02, fy + 0.06, 0.25, 0.16), 0.05)
    fill(ellipse(fx, fy - 0.035, 0.22, 0.125), shadow, 0.7 * folded * cover, soft=0.06)
    fill(flap, fur, folded)
    fill(ellipse(fx + 0.01, fy + 0.035, 0.16, 0.05), light, 0.8 * folded, soft=0.06)

    # Muzzle and nose.
    mx = p - 0.50 * turn
    muzzle = smooth_union(ellipse(mx.abs() - 0.085, q - 0.205, 0.135, 0.10), ellipse(mx, q - 0.27, 0.10, 0.09), 0.04)
    blaze = smooth_union(muzzle, taper(mx, q, 0.0, 0.16, 0.0, -0.20, 0.12, 0.03), 0.06)
    c.blend(mark, cover * c.cover(torch.where(bib > 0, blaze, muzzle) * scale) * (0.75 + 0.25 * bib))
    fill(ellipse(cheek - 0.33, q - 0.15, 0.085, 0.055), flat(1.0, 0.45, 0.45), 0.38 * cover, soft=0.05)
    fill(arc(mx.abs() - 0.058, q - 0.195, 0.058, 0.045, 0.013), torch.lerp(line, flat(0.3, 0.2, 0.24), bib.view(-1, 1)))
    nose = smooth_intersect(
        triangle(mx, q - 0.10, -0.095, 0.0, 0.095, 0.0, 0.0, 0.10), box(mx, q - 0.14, 0.075, 0.045, 0.02), 0.03
    )
    fill(nose, flat(0.93, 0.42, 0.47))

    whisker = union(
        taper(mx.abs(), q, 0.22, 0.20, 0.60, 0.13, 0.008, 0.004),
        taper(mx.abs(), q, 0.22, 0.235, 0.58, 0.25, 0.008, 0.004),
    )
    fill(whisker, line, 0.45)

    # Eyes: one frame for both, each about its own middle and narrowed as it turns away.
    ax, az = 0.215, 0.44
    left, right = -ax * facing + az * turn, ax * facing + az * turn
    on_right = p > 0.5 * (left + right)
    mirror = torch.where(on_right, 1.0, -1.0)
    narrow = torch.where(on_right, facing - turn * (ax / az), facing + turn * (ax / az)).clamp(max=1.05)
    ex, ey = (p - torch.where(on_right, right, left)) / narrow, q + 0.015
    tx, ty = rotate(ex * mirror, ey, math.radians(-12))
    opened, closed = is_("eyes", "open"), is_("eyes", "closed")
    ball = smooth_intersect(ellipse(tx, ty, 0.135, 0.128), circle(tx, ty - 0.05, 0.165), 0.02) * narrow
    fill(ball - 0.022, dark, opened)
    iris = fill(ball, colours(EYE, "eye_colour"), opened)
    c.blend(colours(EYE_DEEP, "eye_colour"), iris * opened * (-3.0 * ey + 0.05).clamp(0, 0.85))
    fill(ellipse(ex, ey, 0.052, 0.098) * narrow, dark, opened)
    fill(circle(ex + 0.045, ey + 0.045, 0.034) * narrow, flat(1.0, 1.0, 1.0), opened)
    fill(arc(ex, ey - 0.045, 0.115, -0.10, 0.024) * narrow, line, closed)
    return c.rgb


CATS = Scene(
    "cats",
    (
        Factor("yaw", "coarse", range=(-30.0, 30.0), unit="degrees"),
        Factor("tilt", "coarse", range=(-18.0, 18.0), unit="degrees"),
        Factor("x", "coarse", range=(-0.2, 0.2), unit="half pictures"),
        Factor("size", "coarse", range=(0.8, 1.05), unit="times"),
        Factor("ears", "middle", ("pointed", "folded")),
        Factor("fluff", "middle", ("short", "long")),
        Factor("eyes", "middle", ("open", "closed"), p=(0.75, 0.25)),
        Factor("collar", "middle", ("none", "bell", "bow")),
        Factor("fur", "fine", tuple(FUR)),
        Factor("stripes", "fine", ("plain", "striped")),
        Factor("bib", "fine", ("none", "white"), visible_if={"fur": ("ginger", "black", "grey", "brown")}),
        Factor("eye_colour", "fine", tuple(EYE), visible_if={"eyes": ("open",)}),
        Factor("background", "fine", tuple(WALL_TOP)),
    ),
    draw,
)
