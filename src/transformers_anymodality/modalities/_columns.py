"""Reads titles of a table's columns, as loggers write them: the channel and its unit, or a time."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ._source import MediaError


_G = 9.80665
_DEGREE = math.pi / 180
# Quantity -> size of each of its units, written without spaces, points and strokes.
QUANTITIES: dict[str, dict[str, float]] = {
    "acceleration": {
        **dict.fromkeys(("ms2", "mss", "mps2", "mpss", "msec2", "meterssecond2"), 1.0),
        **dict.fromkeys(("g", "gs", "gn", "gforce"), _G),
        **dict.fromkeys(("mg", "millig", "mgs"), _G / 1000),
    },
    "angular velocity": {
        **dict.fromkeys(("rads", "radsec", "radss", "radianss", "radianssec", "radianssecond"), 1.0),
        **dict.fromkeys(("degs", "degsec", "dps", "°s", "°sec", "degreess", "degreessec", "degreessecond"), _DEGREE),
        **dict.fromkeys(("mdps", "mdegs", "m°s"), _DEGREE / 1000),
        "mrads": 1e-3,
    },
    "voltage": {"mv": 1.0, "uv": 1e-3, "v": 1e3},
    "time": {
        **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
        **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 1e-3),
        **dict.fromkeys(("us", "usec", "usecs", "micros", "microsecond", "microseconds"), 1e-6),
        **dict.fromkeys(("ns", "nsec", "nsecs", "nanos", "nanosec", "nanosecond", "nanoseconds"), 1e-9),
        **dict.fromkeys(("min", "minutes"), 60.0),
    },
}
# Quantity -> unit that is often confused with the usual one -> least and greatest median, and greatest value, of the
# length over three axes in the quantity's first unit in this case.
_LIKELY = {
    "acceleration": {"g": (0.9, 1.1, math.inf), "mg": (900.0, 1100.0, math.inf)},
    "angular velocity": {"deg/s": (15.0, math.inf, 70.0)},  # sensors end at 4000 deg/s
}
_BRACKET = re.compile(r"(.*?)[\s_]*[(\[{]([^()\[\]{}]*)[)\]}]\s*")
_TIME = re.compile(
    r"t|ts|(?:.*[ _])?(?:times?tamps?|time|stamp|clock|epoch|uptime|elapsed|date|datetime|seconds|n?secs?|nanos|nanosec|"
    r"millis|micros)(?:[ _](?:since|from|elapsed|stamp|of|in|utc|unix|epoch|time).*)?"
)
# Epoch times of this century, which identify the unit of times without a stated unit.
_EPOCHS = {1.0: 1e9, 1e-3: 1e12, 1e-6: 1e15, 1e-9: 1e18}


@dataclass(frozen=True)
class Channel:
    """A channel to find: a name, its unit or None, and a pattern of other names (of `plain` titles) or None."""

    name: str
    unit: str | None = None
    alias: str | None = None


@dataclass
class Clock:
    """A column of times (or two, of full seconds and the rest), and the seconds of its unit; None if unknown."""

    title: str
    places: tuple[int, ...]
    units: tuple[float | None, ...]


@dataclass
class Columns:
    places: list[int]
    factors: list[float]  # from the unit of the title to that of the channel
    unsaid: list[bool]  # whether a channel's unit is not in its title
    clocks: list[Clock] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)  # the channels that were found


def squeeze(unit: str) -> str:
    """A unit in the spelling of `QUANTITIES`."""
    unit = unit.strip().replace("²", "2").replace("⁻", "-").replace("µ", "u").replace("μ", "u").replace("º", "°")
    return re.sub(r"per|[\s_^*·./'-]", "", unit.lower())


def quantity_of(unit: str) -> str | None:
    return next((name for name, units in QUANTITIES.items() if squeeze(unit) in units), None)


def plain(title: str) -> str:
    """A title in lower case, split into words: `accelerometerAccelerationX`, `/imu/angular_velocity.x`. Underscores stay:
    ROS's `linear_acceleration` includes gravity, but a "linear acceleration" does not."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", title)
    return re.sub(r"[\s./:\\%#-]+", " ", words).strip(" _").lower()


def three_axes(words: str, axis: str) -> str:
    """A pattern of `plain` titles of one axis of a sensor: `acc_x`, `accelx`, `x acceleration`, `imu data acc x`."""
    aside = r"user|lin[ _]acc\w*|linear acc\w*|gravity|free|without|no|bias|cov\w*|mag\w*|earth|world"
    aside = rf"(?!.*(?<![a-z])(?:{aside})(?![a-z]))"
    return rf"{aside}(?:.*[ _])?(?:(?:{words})[ _]?{axis}(?:[ _]?axis)?|{axis}[ _]?(?:axis[ _]?)?(?:{words}))"


def readings(title: str) -> list[tuple[str, str | None]]:
    """A title read as a name only, and as a name followed by a unit."""
    found: list[tuple[str, str | None]] = [(title, None)]
    if bracket := _BRACKET.fullmatch(title):
        return [*found, (bracket[1], bracket[2])]
    words = re.split(r"(?<=[^\s_])[\s_]+", title)
    for count in (1, 2, 3):
        if len(words) > count and quantity_of("_".join(words[-count:])):
            found.append((re.sub(r"[\s_]in$", "", "_".join(words[:-count])), "_".join(words[-count:])))
    return found


def find_columns(
    titles: Sequence[str], channels: Sequence[Channel], name: str, stem: str = "", some: bool = False
) -> Columns:
    """Places of the channels and the times among the titles, in any order.

    Args:
        stem: name of the file, which may name the sensor if titles name only the axis.
        some: whether channels may be missing, but not all.

    Raises:
        MediaError: a channel is missing or occurs twice, or its unit is unknown or belongs to another quantity.
    """
    found = {channel.name: _matches(channel, titles, stem) for channel in channels}
    missing = [channel for channel, places in found.items() if not places]
    if missing and not (some and len(missing) < len(channels)):
        raise MediaError(
            f"{name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(titles)}. "
            "Rename its columns or the channels."
        )
    for channel, places in found.items():
        if len(places) > 1:
            several = ", ".join(titles[place] for place, _ in places)
            raise MediaError(f"{name} has more than one column named {channel} ({several}): keep one of each.")
    columns = Columns([], [], [])
    columns.channels = [channel for channel in channels if found[channel.name]]
    for channel in columns.channels:
        ((place, unit),) = found[channel.name]
        columns.places.append(place)
        columns.factors.append(1.0 if unit is None else _factor(unit, channel, titles[place], name))
        columns.unsaid.append(unit is None)
    columns.clocks = _clocks(titles, columns.places)
    return columns


def _matches(channel: Channel, titles: Sequence[str], stem: str) -> list[tuple[int, str | None]]:
    """Places of a channel, and the units in their titles, by the surest match that exists: its exact name, another name, or
    an axis whose sensor follows from the unit or the file's name."""
    wanted = channel.name.strip().lower()
    pairs = [(place, *pair) for place, title in enumerate(titles) for pair in readings(title)]
    if channel.unit is None:
        pairs = [(place, base, unit) for place, base, unit in pairs if unit is None]
    ways = [
        lambda base, unit: unit is None and base.strip().lower() == wanted,
        lambda base, unit: base.strip().lower() == wanted,
    ]
    if channel.alias is not None:
        pattern = re.compile(channel.alias)
        ways += [
            lambda base, unit: pattern.fullmatch(plain(base)),
            lambda base, unit: unit is not None and pattern.fullmatch(f"{quantity_of(unit)} {plain(base)}"),
            lambda base, unit: pattern.fullmatch(f"{plain(stem)} {plain(base)}"),
        ]
    for way in ways:
        hits = {}
        for place, base, unit in pairs:
            if way(base, unit):
                hits[place] = unit
        if hits:
            return [*hits.items()]
    return []


def _factor(unit: str, channel: Channel, title: str, name: str) -> float:
    own = quantity_of(channel.unit or "")
    sizes = QUANTITIES.get(own or "", {})
    if squeeze(unit) not in sizes:
        raise MediaError(
            f"{name}: the unit {unit!r} of column {title!r} is not known for {channel.name}, which is in {channel.unit}: "
            "convert it, and write the new unit or no unit into the title."
        )
    return sizes[squeeze(unit)] / sizes[squeeze(channel.unit or "")]


def _clocks(titles: Sequence[str], taken: Iterable[int]) -> list[Clock]:
    """Columns of times; columns with a stated unit come first."""
    found: list[Clock] = []
    times = QUANTITIES["time"]
    for place, title in enumerate(titles):
        if place in taken:
            continue
        base, unit = readings(title)[-1]
        if unit is not None and squeeze(unit) in times and _TIME.fullmatch(plain(base)):
            found.append(Clock(title, (place,), (times[squeeze(unit)],)))
        elif _TIME.fullmatch(plain(title)) and (unit is None or unit.lower() in ("txt", "utc", "local", "")):
            words = re.split(r"[ _]", plain(title))
            said = next((times[word] for word in words if word in times and len(word) > 2), None)
            found.append(Clock(title, (place,), (said,)))
    return sorted(_paired(found), key=lambda clock: None in clock.units)


def _paired(clocks: list[Clock]) -> list[Clock]:
    """Joins full seconds (`stamp.secs`) and further nanoseconds (`stamp.nsecs`) to one clock, as ROS writes them."""
    by_title = {plain(clock.title): clock for clock in clocks}
    for title, clock in list(by_title.items()):
        rest = by_title.get(re.sub(r"(?<![a-z])secs$", "nsecs", re.sub(r"(?<![a-z])sec$", "nanosec", title)))
        if rest is not None and rest is not clock:
            del by_title[plain(rest.title)]
            by_title[title] = Clock(clock.title, clock.places + rest.places, (1.0, 1e-9))
    return [*by_title.values()]


def check_units(values: np.ndarray, unsaid: Sequence[Channel], channels: Sequence[Channel], name: str) -> None:
    """Raises `MediaError` if three axes without a stated unit hold values that are impossible in the channels' own unit: 1
    at rest instead of 9.8 m/s^2, or faster turns than a gyroscope can measure.

    Args:
        values: float64 (rows, channels), in the channels' units.
    """
    for own in dict.fromkeys(channel.unit for channel in unsaid if channel.unit):
        places = [place for place, one in enumerate(channels) if one in unsaid and one.unit == own]
        quantity = quantity_of(own)
        if len(places) != 3 or quantity not in _LIKELY:
            continue
        size = QUANTITIES[quantity][squeeze(own)]
        norms = np.linalg.norm(values[:, places] * size, axis=1)
        for unit, (least, most, highest) in _LIKELY[quantity].items():
            if least <= np.median(norms) <= most or norms.max() > highest:
                titles = ", ".join(channels[place].name for place in places)
                raise MediaError(
                    f"{name}: {titles} hold values of about {np.median(norms) / size:.4g}, which look like {unit}, but "
                    f"{own} is expected. Put the unit into the titles, such as '{channels[places[0]].name} ({unit})'; "
                    f"other units than {own} are converted."
                )


def epoch_unit(first: float) -> float | None:
    """Seconds of the unit in which this number is a time from 2001 to 2128, counted since 1970; None if there is none."""
    return next((unit for unit, least in _EPOCHS.items() if least <= first < 5 * least), None)
