"""Churches: a church in the country, the counterpart of LSUN-Church.

The church is drawn in its own frame, in units of its size, with the origin at the foot of its middle. Most shapes are
products of a function of x and one of y, so coordinates are kept as a row and a column until they meet.
"""

import torch
from torch import Tensor

from .scene import Factor, Scene, Values, palette, per_picture
from .sdf import Canvas, box, circle, ellipse, intersect, segment, smooth_union, subtract, taper, triangle, union

STONE = {
    "white": (0.97, 0.95, 0.91),
    "sand": (0.93, 0.76, 0.47),
    "red": (0.76, 0.39, 0.31),
    "grey": (0.57, 0.60, 0.65),
}
MORTAR = {
    "white": (0.52, 0.50, 0.54),
    "sand": (0.50, 0.33, 0.14),
    "red": (1.00, 0.84, 0.76),
    "grey": (0.20, 0.22, 0.29),
}
ROOF = {
    "orange": (0.93, 0.44, 0.17),
    "blue": (0.24, 0.42, 0.80),
    "green": (0.25, 0.66, 0.55),
    "black": (0.22, 0.21, 0.27),
}
SKY_TOP = {
    "day": (0.26, 0.58, 0.95),
    "sunset": (0.42, 0.24, 0.58),
    "overcast": (0.55, 0.60, 0.66),
    "night": (0.05, 0.06, 0.20),
}
SKY_LOW = {
    "day": (0.78, 0.92, 1.00),
    "sunset": (1.00, 0.66, 0.38),
    "overcast": (0.86, 0.88, 0.89),
    "night": (0.23, 0.26, 0.55),
}
LIGHT = {
    "day": (1.00, 1.00, 1.00),
    "sunset": (1.00, 0.86, 0.82),
    "overcast": (0.88, 0.90, 0.94),
    "night": (0.56, 0.60, 0.82),
}
GROUND = {"grass": (0.47, 0.75, 0.33), "snow": (0.93, 0.96, 1.00), "desert": (0.95, 0.80, 0.52)}
GROUND_LOW = {"grass": (0.20, 0.50, 0.25), "snow": (0.68, 0.78, 0.92), "desert": (0.83, 0.58, 0.31)}
HILLS = {"grass": (0.33, 0.58, 0.42), "snow": (0.72, 0.80, 0.91), "desert": (0.80, 0.58, 0.42)}


def draw(values: Values, size: int) -> Tensor:
    """Paint churches: shape (n, 3, size, size)."""
    device = values["x"].device
    c = Canvas(len(values["x"]), size, device=device)
    x, y = c.x[:, :1], c.y[:, :, :1]

    def is_(name: str, level: str) -> Tensor:
        return per_picture(values[name] == CHURCHES.index(name, level))

    light = palette(LIGHT, CHURCHES.factor("sky").levels, values["sky"])

    def colours(table, name: str) -> Tensor:
        return palette(table, CHURCHES.factor(name).levels, values[name])

    def flat(r: float, g: float, b: float) -> Tensor:
        return torch.tensor([[r, g, b]], device=device)

    scale = per_picture(values["size"])
    horizon = per_picture(values["horizon"])
    u = (x - per_picture(values["x"])) / scale
    v = (y - horizon - 0.12) / scale

    def fill(d, colour, alpha=1.0, soft=0.0) -> Tensor:
        return c.paint(d * scale, colour, alpha, soft=soft)

    stone, roof = colours(STONE, "stone") * light, colours(ROOF, "roof") * light
    mortar = colours(MORTAR, "stone") * light
    stone_dark = stone * torch.tensor([[0.66, 0.64, 0.76]], device=device)
    roof_dark, roof_light = roof * 0.66, torch.lerp(roof, light, 0.28)
    day, sunset, overcast, night = (is_("sky", level) for level in CHURCHES.factor("sky").levels)
    snow = is_("ground", "snow")
    gold = flat(1.0, 0.82, 0.30) * light

    # Sky: a gradient, then sun or moon and stars, then clouds.
    c.blend(colours(SKY_TOP, "sky"), torch.ones_like(c.x))
    c.blend(colours(SKY_LOW, "sky"), ((c.y + 1) / (1 + horizon)).clamp(0, 1).pow(1.3))
    sun_x, sun_y = x - 0.62 + 1.27 * night, y + 0.70 - 0.60 * sunset
    shining = 1 - overcast
    disc = torch.cat([0.95 + 0.05 * sunset, 0.95 - 0.06 * sunset, 0.70 - 0.05 * sunset + 0.15 * night], 1)[..., 0]
    away = circle(sun_x, sun_y, 0.0)
    c.blend(disc, 0.55 * shining * (1 - away / (0.50 + 0.25 * sunset)).clamp(0, 1).square())
    crescent = torch.where(night > 0, subtract(away - 0.14, circle(sun_x - 0.07, sun_y + 0.05, 0.12)), away - 0.13)
    c.paint(crescent, disc, shining)
    stars = None
    for sx, sy, r in STARS:
        star = circle(x - sx, y - sy, r)
        stars = star if stars is None else union(stars, star)
    c.paint(stars, flat(1.0, 0.97, 0.85), 0.9 * night)
    white_cloud, grey_cloud = flat(1.0, 1.0, 1.0), flat(0.40, 0.44, 0.51)
    cloud = union(_cloud(x + 0.62, y + 0.62, 1.0), _cloud(x - 0.58, y + 0.42, 0.8))
    c.paint(
        cloud,
        torch.lerp(white_cloud, flat(1.0, 0.62, 0.55), sunset.view(-1, 1)),
        (0.85 * day + 0.6 * sunset),
        soft=0.02,
    )
    grey = union(union(_cloud(x + 0.55, y + 0.72, 1.5), _cloud(x - 0.55, y + 0.62, 1.6)), _cloud(x, y + 0.92, 1.5))
    c.paint(grey, grey_cloud, 0.75 * overcast, soft=0.06)

    # Hills and ground.
    hills = colours(HILLS, "ground") * light
    ridge = 0.11 + 0.06 * torch.sin(3.1 * x + 0.6) + 0.025 * torch.sin(7.3 * x)
    c.paint(horizon - ridge - y, torch.lerp(hills, colours(SKY_LOW, "sky"), 0.30))
    land = c.paint(horizon - 0.02 * torch.cos(2.2 * x) - y, colours(GROUND, "ground") * light)
    c.blend(colours(GROUND_LOW, "ground") * light, land * ((c.y - horizon) / 0.75).clamp(0, 1))

    # Where the west front stands; the nave runs behind it.
    reach, half = 0.62, 0.22
    front = (reach - half) * (is_("layout", "right") - is_("layout", "left"))
    w = u - front
    two = is_("towers", "two")

    # A shadow on the ground, and a path to the door.
    fill(ellipse(u, v - 0.02, 0.74, 0.07), flat(0.08, 0.10, 0.20), 0.35, soft=0.08)
    path = torch.maximum((w - 0.25 * v.clamp(min=0).square()).abs() - 0.08 - 0.16 * v.clamp(min=0), -v)
    pebble = torch.lerp(colours(GROUND_LOW, "ground"), flat(0.98, 0.90, 0.74), 0.65) * light
    fill(path, torch.lerp(pebble, flat(0.62, 0.60, 0.64) * light, (0.7 * snow).view(-1, 1)), 0.9)

    # Bricks: courses, each half a brick away from the last; some bricks are darker, by a fixed rule.
    course, length, mortar_half = 0.140, 0.26, 0.020
    row = torch.floor(v / course)
    along = u / length + 0.5 * torch.remainder(row, 2)
    across, level = torch.remainder(along, 1.0) - 0.5, torch.remainder(v / course, 1.0) - 0.5
    joint = torch.maximum(across.abs() * length - 0.5 * length, level.abs() * course - 0.5 * course) + mortar_half
    bricked = is_("texture", "bricks")
    joints = c.cover(-joint * scale) * bricked
    darker = bricked * 0.45 * (torch.remainder(0.618 * torch.floor(along) + 0.371 * row, 1.0) > 0.55)
    arched = is_("windows", "arched")
    glass = torch.lerp(flat(0.16, 0.20, 0.36) * light, flat(1.0, 0.84, 0.35), night.view(-1, 1))
    glow = flat(1.0, 0.80, 0.40)

    def wall(d: Tensor, shadow: Tensor) -> Tensor:
        cover = fill(d, stone)
        c.blend(stone_dark, cover * darker)
        c.blend(mortar, cover * joints)
        c.blend(stone_dark, cover * shadow)
        return cover

    def window(wx, wy, big=1.0, alpha=1.0) -> None:
        lancet = union(box(wx, wy - 0.022, 0.042 * big, 0.088 * big), circle(wx, wy + 0.066 * big, 0.042 * big))
        d = torch.where(arched > 0, lancet, circle(wx, wy + 0.02, 0.062 * big))
        c.blend(glow, 0.35 * night * alpha * (1 - d * 6).clamp(0, 1).square())
        fill(d - 0.018, torch.lerp(stone, light, 0.6), alpha)
        fill(d, glass, alpha)

    # Nave: wall, windows, roof.
    wall(box(u, v + 0.19, reach - 0.03, 0.21), (0.35 + 0.35 * (u + 0.1) + 0.5 * (v + 0.32)).clamp(0, 0.75))
    pitch = torch.where(two > 0, 0.166, 0.19)
    bay = (w.abs() - torch.where(two > 0, 0.258, 0.215)) / pitch  # counted from the west front, two or four of them
    bay_x = (torch.remainder(bay, 1.0) - 0.5) * pitch
    window(bay_x, v + 0.19, 1.0, ((bay > 0) & (bay < 4) & (u.abs() < 0.595)).float())
    eave = torch.maximum((u.abs() - reach - 0.01) + (-v - 0.38) * 0.45, torch.maximum(-v - 0.64, v + 0.38))
    cover = fill(eave, roof)
    c.blend(roof_light, cover * (-2.2 * (v + 0.50)).clamp(0, 0.6))
    tiles = (torch.remainder((v + 0.38) / 0.088, 1.0) - 0.5).abs() * 0.088 - 0.012
    c.blend(roof_dark, cover * 0.6 * c.cover(tiles * scale))
    fill(box(u, v + 0.375, reach + 0.02, 0.018, 0.01), roof_dark)

    # West front: a gable with a door, and one tower in its middle or two at its sides.
    gable = union(
        box(w, v + 0.24, half - 0.02, 0.26), triangle(w, v + 0.50, -half + 0.02, 0.0, 0.0, -0.22, half - 0.02, 0.0)
    )
    wall(gable, (0.25 + 0.9 * w).clamp(0, 0.5))
    side = w.abs()
    fill(segment(side, v, 0.0, -0.74, half, -0.49, 0.03), roof_dark)
    window(w, v + 0.47, 0.95, two)
    th = torch.where(two > 0, 0.09, 0.145)
    tw = torch.where(two > 0, side - 0.168, w)
    top = torch.where(two > 0, 0.86, 0.92)
    flank = torch.where(two > 0, w - 0.168 * torch.sign(w), w)  # not mirrored: light comes from the left
    tower = box(tw, v + 0.5 * top, th, 0.5 * top)
    fill(tower - 0.02, flat(0.06, 0.06, 0.14), 0.22, soft=0.06)
    wall(tower, (0.12 + 2.6 * (flank - 0.2 * th) * 0.145 / th).clamp(0, 0.62))
    fill(box(tw, v + top - 0.35, th + 0.018, 0.016), torch.lerp(stone, light, 0.45))

    # What crowns the tower.
    spire, dome, flat_top = (is_("tower_roof", level) for level in CHURCHES.factor("tower_roof").levels)
    rise = v + top
    tall = torch.where(two > 0, 0.36, 0.42)
    cone = triangle(tw, rise, -th - 0.045, 0.0, 0.0, -tall, th + 0.045, 0.0)
    bulb = smooth_union(
        torch.maximum(ellipse(tw, rise, th + 0.035, th * 1.35), rise),
        taper(tw, rise, 0.0, -th * 1.2, 0.0, -th * 1.2 - 0.12, 0.03, 0.012),
        0.06,
    )
    crown = torch.where(spire > 0, cone, bulb)
    pitched = 1 - flat_top
    cover = fill(crown, roof, pitched)
    c.blend(roof_dark, cover * pitched * (0.1 + 5.0 * flank).clamp(0, 0.8))
    c.blend(roof_light, cover * pitched * (-5.0 * flank - 0.1).clamp(0, 0.5))
    fill(box(tw, rise, th + 0.04, 0.02, 0.01), roof_dark, pitched)
    tip = rise + torch.where(spire > 0, tall, th * 1.2 + 0.12)
    cross = union(box(tw, tip + 0.05, 0.011, 0.075), box(tw, tip + 0.07, 0.042, 0.011))
    fill(cross, gold, pitched)
    notch = torch.where(two > 0, 0.082, 0.098)
    teeth = torch.maximum(
        (torch.remainder(tw / notch + 0.5, 1.0) - 0.5).abs() * notch - 0.29 * notch,
        box(tw, rise + 0.065, th + 0.035, 0.055),
    )
    cover = fill(union(teeth, box(tw, rise - 0.02, th + 0.035, 0.045)), torch.lerp(stone, light, 0.15), flat_top)
    c.blend(stone_dark, cover * flat_top * (0.1 + 2.6 * flank).clamp(0, 0.6))
    window(tw, v + top - 0.18, 1.25)

    # Door, and the trees before the church.
    door = union(box(w, v + 0.07, 0.075, 0.10), circle(w, v + 0.155, 0.075))
    fill(intersect(door - 0.025, v), torch.lerp(stone, light, 0.6))
    fill(intersect(door, v), flat(0.42, 0.22, 0.12) * light)
    fill(box(w, v + 0.08, 0.006, 0.14), flat(0.20, 0.09, 0.05) * light)
    _trees(c, x, y - horizon, is_("trees", "firs"), is_("trees", "round"), light)
    return c.rgb


STARS = (
    (-0.92, -0.80, 0.018), (-0.35, -0.88, 0.022), (-0.15, -0.55, 0.016), (0.12, -0.82, 0.018), (0.38, -0.62, 0.022),
    (0.60, -0.90, 0.016), (0.78, -0.55, 0.020), (0.92, -0.78, 0.016), (-0.80, -0.30, 0.018), (0.62, -0.25, 0.016),
)  # fmt: skip


def _cloud(x: Tensor, y: Tensor, s: float) -> Tensor:
    """A flat-bottomed cloud about 0.5 s wide."""
    puffs = union(ellipse(x, y + 0.02 * s, 0.15 * s, 0.11 * s), ellipse(x + 0.14 * s, y - 0.03 * s, 0.12 * s, 0.07 * s))
    puffs = union(puffs, ellipse(x - 0.15 * s, y - 0.025 * s, 0.14 * s, 0.08 * s))
    return torch.maximum(puffs, y - 0.035 * s)


def _trees(c: Canvas, x: Tensor, y: Tensor, firs: Tensor, leafy: Tensor, light: Tensor) -> None:
    """A tree at either side of the picture, the right one larger and nearer."""
    dx = torch.where(x > 0, x - 0.80, -x - 0.86)
    tall = torch.where(x > 0, 1.0, 0.82)
    dx, dy = dx / tall, (y - 0.26) / tall
    lit = torch.where(x > 0, dx, -dx)  # light comes from the left
    there = firs + leafy
    c.paint(ellipse(dx, dy, 0.20, 0.035), torch.zeros_like(light[:1]), 0.28 * there, soft=0.04)
    c.paint(box(dx, dy + 0.09, 0.028, 0.11), torch.tensor([[0.40, 0.25, 0.16]], device=c.rgb.device) * light, there)
    fir = None
    for base, half, height in ((-0.10, 0.175, 0.26), (-0.24, 0.145, 0.24), (-0.38, 0.11, 0.24)):
        tier = triangle(dx, dy - base, -half, 0.0, 0.0, -height, half, 0.0)
        fir = tier if fir is None else union(fir, tier)
    ball = smooth_union(ellipse(dx, dy + 0.36, 0.19, 0.20), ellipse(dx.abs() - 0.09, dy + 0.26, 0.13, 0.11), 0.03)
    green = torch.where(
        leafy.view(-1, 1) > 0,
        torch.tensor([[0.44, 0.72, 0.22]], device=c.rgb.device),
        torch.tensor([[0.10, 0.42, 0.33]], device=c.rgb.device),
    )
    cover = c.paint(torch.where(leafy > 0, ball, fir), green * light, there)
    c.blend(green * light * 0.62, cover * there * (0.15 + 2.5 * lit + 1.2 * (dy + 0.36)).clamp(0, 0.85))


CHURCHES = Scene(
    "churches",
    (
        Factor("x", "coarse", range=(-0.2, 0.2), unit="half pictures"),
        Factor("size", "coarse", range=(0.8, 1.05), unit="times"),
        Factor("horizon", "coarse", range=(0.42, 0.68), unit="half pictures"),
        Factor("layout", "coarse", ("left", "centre", "right")),
        Factor("towers", "middle", ("one", "two")),
        Factor("tower_roof", "middle", ("spire", "dome", "flat")),
        Factor("windows", "middle", ("arched", "round")),
        Factor("trees", "middle", ("none", "firs", "round")),
        Factor("stone", "fine", tuple(STONE)),
        Factor("texture", "fine", ("plain", "bricks")),
        Factor("roof", "fine", tuple(ROOF)),
        Factor("sky", "fine", tuple(SKY_TOP)),
        Factor("ground", "fine", tuple(GROUND)),
    ),
    draw,
)
