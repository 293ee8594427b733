"""Exports of loggers and recorders as people bring them: columns, units, clocks, records of electrocardiograms."""

import types

import numpy as np
import pytest
import torch

from transformers_anymodality import MediaError, SignalSpec
from transformers_anymodality.data.records import read_chat
from transformers_anymodality.features._fingerprints import Contents
from transformers_anymodality.modalities import MODALITIES, Limits


ROWS = 50
TIMES = np.arange(ROWS) / 100
ACCELERATION = np.stack([np.full(ROWS, 0.5), 1 + TIMES, np.full(ROWS, 9.5)])
TURNS = np.stack([np.full(ROWS, 0.1), np.full(ROWS, 0.2), 0.3 + TIMES])
G, DEGREE = 9.80665, np.pi / 180
EPOCH = 1_698_501_144_401_925_000 + np.arange(ROWS) * 10_000_000  # ns


def export(titles: str, *columns, separator=",") -> bytes:
    rows = (separator.join(f"{value:.19g}" for value in row) for row in zip(*columns, strict=True))
    return "\n".join([titles.replace(",", separator), *rows, ""]).encode()


def axes(title: str, order="xyz") -> str:
    return ",".join(title.replace("@", axis) for axis in order)


def read_imu(source):
    spec = MODALITIES["imu"]
    return spec.read(source, types.SimpleNamespace(sampling_rate=100), {})


# Logger -> its export.
LOGGERS = {
    "phyphox": export(
        f"Time (s),{axes('Acceleration @ (m/s^2)')},{axes('Gyroscope @ (rad/s)')}",
        TIMES,
        *ACCELERATION,
        *TURNS,
        separator=";",
    ),
    "rostopic echo -p": export(
        f"%time,{axes('field.angular_velocity.@')},{axes('field.linear_acceleration.@')},field.linear_acceleration_covariance0",
        *(EPOCH, *TURNS, *ACCELERATION, TIMES),
    ),
    "bagpy": export(
        f"Time,header.seq,header.stamp.secs,header.stamp.nsecs,{axes('angular_velocity.@')},{axes('linear_acceleration.@')}",
        *(EPOCH / 1e9, np.arange(ROWS), EPOCH // 10**9, EPOCH % 10**9, *TURNS, *ACCELERATION),
    ),
    "ros2": export(
        f"header.stamp.sec,header.stamp.nanosec,{axes('/imu/data/linear_acceleration.@')},{axes('/imu/data/angular_velocity.@')}",
        *(EPOCH // 10**9, EPOCH % 10**9, *ACCELERATION, *TURNS),
    ),
    "MetaWear": export(
        f"epoch (ms),elapsed (s),{axes('@-axis (g)')},{axes('@-axis (deg/s)')}",
        *(EPOCH // 10**6, TIMES, *ACCELERATION / G, *TURNS / DEGREE),
    ),
    "AndroSensor": export(
        f"{axes('ACCELEROMETER @ (m/s²)', 'XYZ')},{axes('GYROSCOPE @ (rad/s)', 'XYZ')},Time since start in ms",
        *(*ACCELERATION, *TURNS, TIMES * 1e3),
    ),
    "SensorLog": export(
        f"accelerometerTimestamp_sinceReboot(s),{axes('motionUserAcceleration@(G)', 'XYZ')},"
        f"{axes('accelerometerAcceleration@(G)', 'XYZ')},{axes('gyroRotation@(rad/s)', 'XYZ')}",
        *(TIMES + 7, *TURNS, *ACCELERATION / G, *TURNS),
    ),
    "milli-g and microseconds": export(
        f"timestamp [us],{axes('Acc@ [mg]', 'ZYX')},{axes('gyr_@_dps', 'yxz')}",
        *(EPOCH // 1000, *ACCELERATION[::-1] / G * 1e3, *TURNS[[1, 0, 2]] / DEGREE),
    ),
    "Android": export(f"timestamp,{axes('accel_@')},{axes('gyro_@')}", EPOCH // 10**6, *ACCELERATION, *TURNS),
    "numpy": export(f"# t,{axes('a@')},{axes('g@')}", TIMES, *ACCELERATION, *TURNS, separator=" "),
}


class TestLoggers:
    @pytest.mark.parametrize("logger", LOGGERS)
    def test_columns_by_name_in_their_units(self, logger):
        expected = np.concatenate([ACCELERATION, TURNS]).T
        for data in (LOGGERS[logger], b"sep=,\n" + LOGGERS[logger]):
            np.testing.assert_allclose(read_imu(data), expected, atol=1e-5)

    def test_a_file_per_sensor(self, tmp_path):
        for name, values, begin in (("Accelerometer", ACCELERATION, 0), ("Gyroscope", TURNS, 5)):
            data = export("time,seconds_elapsed,z,y,x", EPOCH[begin:], TIMES[begin:], *values[::-1, begin:])
            (tmp_path / f"{name}.csv").write_bytes(data)
        expected = np.concatenate([ACCELERATION, TURNS]).T[5:]
        part = {"type": "imu", "files": ["Gyroscope.csv", "Accelerometer.csv"]}
        record = {"messages": [{"role": "user", "content": [part]}]}
        (source,) = read_chat(0, record, media_root=tmp_path).checked().media["imu"]
        np.testing.assert_allclose(read_imu(source), expected, atol=1e-5)
        for files, message in ((["Gyroscope"], "expected ax"), (["Gyroscope"] * 2, "have the channels|expected ax")):
            with pytest.raises(MediaError, match=message):
                read_imu({"files": [tmp_path / f"{name}.csv" for name in files]})
        with pytest.raises(MediaError, match="lacks the columns gx, gy, gz; it has time, seconds_elapsed, z, y, x"):
            read_imu(tmp_path / "Accelerometer.csv")

    @pytest.mark.parametrize(
        ("titles", "scale", "message"),
        [
            (f"time,{axes('Linear Acceleration @ (m/s^2)')},{axes('g@')}", (1, 1, 1), "lacks the columns ax, ay, az"),
            (f"time,{axes('userAcceleration.@')},{axes('g@')}", (1, 1, 1), "lacks the columns ax, ay, az"),
            (f"time,{axes('a@')},{axes('g@')}", (1, 1 / G, 1), r"look like g, but m/s\^2.*'ax \(g\)'"),
            (f"time,{axes('acc_@')},{axes('g@')}", (1, 1000 / G, 1), "look like mg"),
            (f"time,{axes('a@')},{axes('gyro_@')}", (1, 1, 50 / DEGREE), "look like deg/s, but rad/s"),
            (f"time,{axes('a@ (furlong)')},{axes('g@')}", (1, 1, 1), "unit 'furlong' of column 'ax .furlong.'"),
            (f"time,{axes('a@ (deg/s)')},{axes('g@')}", (1, 1, 1), "unit 'deg/s'.*not known for ax"),
            (f"time,{axes('a@')},{axes('g@')}", (1000, 1, 1), "another unit.*time_ms"),
            (f"Zeit,{axes('a@')},{axes('g@')}", (1, 1, 1), "'Zeit' rises with every row.*time_s"),
        ],
    )
    def test_what_cannot_be_told_is_refused(self, titles, scale, message):
        with pytest.raises(MediaError, match=message):
            read_imu(export(titles, TIMES * scale[0], *ACCELERATION * scale[1], *TURNS * scale[2]))

    def test_two_sensors_and_two_clocks(self, tmp_path):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        titles = f"time,{axes('left_acc_@')},{axes('right_acc_@')},{axes('g@')}"
        with pytest.raises(MediaError, match=r"more than one column named ax \(left_acc_x, right_acc_x\)"):
            read_imu(export(titles, TIMES, *ACCELERATION, *ACCELERATION, *TURNS))
        with pytest.raises(MediaError, match="by time_ms it lasts 0.049 s, by time_s 0.49 s"):
            read_imu(export(f"time_ms,time_s,{axes('a@')},{axes('g@')}", TIMES * 100, TIMES, *ACCELERATION, *TURNS))
        for titles, times, message in (
            (("time_ms", "time_s"), (TIMES * 100, TIMES), "contradict"),
            (("Zeit",), (TIMES,), "rises"),
        ):
            columns = dict(zip([*titles, *MODALITIES["imu"].channels], [*times, *ACCELERATION, *TURNS], strict=True))
            parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
            with pytest.raises(MediaError, match=message):
                read_imu(tmp_path / "rows.parquet")
        numbered = export(f"index,{axes('a@')},{axes('g@')}", np.arange(ROWS), *ACCELERATION, *TURNS)
        assert len(read_imu(numbered)) == ROWS  # at the model's rate


class TestElectrocardiograms:
    LEADS = ("I", "II", "V1")

    def spec(self):
        return SignalSpec(name="ecg", channels=self.LEADS, units=("mV",) * 3, sampling_rate=250, seconds=4)

    def read(self, source):
        return self.spec().read(source, types.SimpleNamespace(sampling_rate=250), {})

    def test_records(self, tmp_path):
        wfdb = pytest.importorskip("wfdb")
        beats = np.sin(np.arange(500)[:, None] / [20, 25, 30])
        units = {"units": ["uV", "mV", "mV"], "sig_name": ["V1", "I", "II"], "fmt": ["16"] * 3}
        signals = np.stack([beats[:, 2] * 1000, beats[:, 0], beats[:, 1]], axis=1)
        wfdb.wrsamp("heart", fs=250, p_signal=signals, write_dir=str(tmp_path), **units)
        for suffix in ("hea", "dat"):
            np.testing.assert_allclose(self.read(tmp_path / f"heart.{suffix}"), beats, atol=1e-3)
        contents, spec = Contents(), self.spec()
        before = contents(spec, tmp_path / "heart.hea")
        data = bytearray((tmp_path / "heart.dat").read_bytes())
        data[0] ^= 1
        (tmp_path / "heart.dat").write_bytes(data)
        assert contents(spec, tmp_path / "heart.hea") != before
        with pytest.raises(MediaError, match="limit of 1 s"):
            spec.read(
                tmp_path / "heart.hea", types.SimpleNamespace(sampling_rate=250), {}, limits=Limits(max_seconds=1)
            )
        header = (tmp_path / "heart.hea").read_text()
        (tmp_path / "heart.hea").write_text(header.replace("heart.dat", "../heart.dat"))
        with pytest.raises(MediaError, match="HeaderSyntaxError"):
            self.read(tmp_path / "heart.hea")
        (tmp_path / "heart.hea").write_text(header)
        (tmp_path / "heart.dat").unlink()
        with pytest.raises(MediaError, match="not a readable WFDB record"):
            self.read(tmp_path / "heart.hea")

    def test_channels_first(self):
        beats = np.sin(np.arange(500)[:, None] / [20, 25, 30]).astype(np.float32)
        for given in (beats, beats.T, torch.from_numpy(beats.T), {"values": beats.T, "sampling_rate": 250}):
            assert np.array_equal(self.read(given), beats)
        for shape, message in (
            ((3, 3), "either axis"),
            ((4, 500), "expected .T, 3. or .3, T."),
            ((1, 3, 500), "expected"),
        ):
            with pytest.raises(MediaError, match=message):
                self.read(np.zeros(shape, np.float32))
