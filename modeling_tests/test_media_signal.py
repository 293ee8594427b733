"""The reader of signals: tables, arrays, times, gaps. Every medium is made here."""

import numpy as np
import pytest

from transformers_anymodality.modalities import Limits, MediaError, read_signal


torch = pytest.importorskip("torch")


NAMES = ["ax", "ay"]


def table(seconds, unit=1.0):
    return "time,Ay,note,AX\n" + "".join(f"{t * unit:.9g},{10 + t:.9g},x,{2 * t:.9g}\n" for t in seconds)


class TestSignal:
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_csv_by_names(self, tmp_path, separator):
        path = tmp_path / "a.csv"
        path.write_text("\ufeff" + table(np.arange(5) / 10).replace(",", separator) + "\n", encoding="utf-8")
        read = read_signal(path, NAMES, 10)
        assert read.dtype == np.float32
        assert np.allclose(read, [[0.2 * k, 10 + 0.1 * k] for k in range(5)], atol=1e-6)

    @pytest.mark.parametrize(
        ("title", "unit"),
        [
            ("T", 1),
            ("timestamp", 1),
            ("seconds", 1),
            ("time_s", 1),
            ("Time_ms", 1e3),
            ("timestamp_ms", 1e3),
            ("time_us", 1e6),
            ("time_ns", 1e9),
        ],
    )
    def test_units(self, title, unit):
        read = read_signal(table(np.arange(5) / 10, unit).replace("time", title, 1).encode(), NAMES, 10)
        assert len(read) == 5 and np.allclose(read[:, 0], 0.2 * np.arange(5), atol=1e-6)

    def test_epoch_nanoseconds_keep_their_digits(self):
        start = 1_763_800_000_123_456_789
        rows = "".join(f"{start + k * 1000},{k},0\n" for k in range(5))
        read = read_signal(f"time_ns,ax,ay\n{rows}".encode(), NAMES, 1e6)
        assert read[:, 0].tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("text", ["1,10\n2,20\n", "0,1,10\n0.1,2,20\n"])
    def test_csv_without_header(self, text):
        assert read_signal(text.encode(), NAMES, 10).tolist() == [[1, 10], [2, 20]]

    @pytest.mark.parametrize("timed", [None, "time", "stamps"])
    def test_parquet(self, tmp_path, timed):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"AY": [10, 11, 12], "ax": [0.0, 0.5, 1.0], "other": ["a", "b", "c"]}
        if timed == "time":
            columns["time"] = [5.0, 5.1, 5.2]
        elif timed == "stamps":
            columns["timestamp"] = pyarrow.array([0, 100, 200], pyarrow.timestamp("ms"))
        path = tmp_path / "a.parquet"
        parquet.write_table(pyarrow.table(columns), path)
        assert read_signal(path, NAMES, 10).tolist() == [[0, 10], [0.5, 11], [1, 12]]
        with pytest.raises(MediaError, match="lacks the column az.*AY, ax, other"):
            read_signal(path, ["ax", "az"], 10)
        with pytest.raises(MediaError, match="expected numbers"):
            read_signal(path, ["other"], 10)
        with pytest.raises(MediaError, match="Parquet"):
            read_signal(path.read_bytes()[:-20], NAMES, 10)
        columns["ax"] = [0.0, None, 1.0]
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(MediaError, match="row 1, column ax is empty"):
            read_signal(path, NAMES, 10)

    def test_arrays_and_npy(self, tmp_path):
        values = np.arange(20.0).reshape(10, 2)
        np.save(tmp_path / "a.npy", values)
        for source in (
            values,
            torch.from_numpy(values),
            tmp_path / "a.npy",
            {"values": values, "sampling_rate": 50},
            values.T,
        ):
            assert np.array_equal(read_signal(source, NAMES, 50), values)
        assert read_signal({"array": values, "time": np.arange(10) / 50 + 7}, NAMES, 50).tolist() == values.tolist()
        assert read_signal(values[:, 0], ["ax"], 50).shape == (10, 1)
        for bad, message in (
            (values[:2], "either axis"),
            (np.zeros((5, 3)), "time column apart"),
            (np.zeros((0, 2)), "empty"),
            ({"values": values}, 'one of "time" and "sampling_rate"'),
            ({"values": values, "time": [0, 1]}, "one per row"),
            ([[1, 2]], "expected a file"),
        ):
            with pytest.raises(MediaError, match=message):
                read_signal(bad, NAMES, 50)

    def test_irregular_times_are_interpolated(self):
        generator = np.random.default_rng(0)
        times = np.cumsum(generator.uniform(0.005, 0.015, 400))
        values = np.stack([np.sin(times), 3 * times], 1)
        read = read_signal({"values": values, "time": times}, NAMES, 100)
        grid = times[0] + np.arange(len(read)) / 100
        assert len(read) == int((times[-1] - times[0]) * 100) + 1
        assert np.abs(read - np.stack([np.sin(grid), 3 * grid], 1)).max() < 1e-4

    @pytest.mark.parametrize("jitter", [0.0, 0.3])
    def test_decimation_does_not_fold(self, jitter):
        times = (np.arange(4000) + jitter * np.random.default_rng(0).uniform(-1, 1, 4000)) / 1000
        slow, fast = np.sin(2 * np.pi * times) + 1e4, np.sin(2 * np.pi * 101 * times)
        read = read_signal({"values": np.stack([slow, fast], 1), "time": times}, NAMES, 50)
        grid = times[0] + np.arange(len(read)) / 50
        assert np.abs(read[:, 0] - np.sin(2 * np.pi * grid) - 1e4)[1:-1].max() < 5e-3
        assert np.abs(read[1:-1, 1]).max() < 0.05  # picking readings would give a tone of 1 Hz at full height

    def test_declared_rate_from_a_dict(self):
        read = read_signal({"values": np.arange(10.0)[:, None], "sampling_rate": 10}, ["ax"], 20)
        assert np.allclose(read[:, 0], np.arange(19) / 2)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("ax,az\n1,2\n", "lacks the column ay; it has ax, az"),
            ("ax,ay,AX\n1,2,3\n", "more than one column named ax"),
            ("t,time_ms,ax,ay\n1,2,3,4\n2,3,4,5\n", "time columns that contradict"),
            ("ax,ay\n", "no readings"),
            ("\n\n", "no rows"),
            ("1,2,3,4\n", "no header row"),
            ("ax,ay\n1,2\n3,\n", r"data row 1 \(line 3\), column ay holds ''"),
            ("ax,ay\n1,nan\n", "data row 0 .*column ay.*finite"),
            ("ax,ay\n1,2\n3,1e999\n", "data row 1 .*column ay.*finite"),
            ("ax;ay\n1,5;2\n", "column ax holds '1,5'.*point"),
            ("ax,ay\n1,2\n3\n", "data row 1 .*1 cells, expected 2.*truncated"),
            ("time,ax,ay\n2026-01-01,1,2\n", "not a date"),
            ("time,ax,ay\nnan,1,2\n", "finite time"),
            ("time,ax,ay\nsNaN,1,2\n", "not a date"),
            ("time,ax,ay\n0,1,2\n0.1,1,2\n0.1,1,2\n", "time of row 2 .*is not later than"),
            ("time,ax,ay\n0,1,2\n0.2,1,2\n0.1,1,2\n", "time of row 2 "),
            ("time,ax,ay\n0,1,2\n100,1,2\n200,1,2\n", "time_ms"),
            ("time,ax,ay\n0,1,2\n5000,1,2\n", "limit of 3600"),
            ("a\0b", "binary"),
        ],
    )
    def test_refused_csv(self, text, message):
        with pytest.raises(MediaError, match=message):
            read_signal(text.encode(), NAMES, 10)

    def test_other_files(self):
        with pytest.raises(MediaError, match="UTF-8"):
            read_signal("ax,ay\n1,2 \u00b0\n".encode("latin-1"), NAMES, 10)
        with pytest.raises(MediaError, match="zip"):
            read_signal(b"PK\x03\x04rest", NAMES, 10)

    def test_gaps(self):
        times = np.concatenate([np.arange(10), np.arange(10) + 60]) / 100
        source = {"values": np.zeros((20, 2)), "time": times}
        with pytest.raises(MediaError, match=r"gap of 0.51 s between rows 9 and 10 \(0.09 s and 0.6 s"):
            read_signal(source, NAMES, 100)
        assert len(read_signal(source, NAMES, 100, max_gap=1.0)) == 70
        # A quarter of a second is allowed however dense the recording.
        assert (
            len(read_signal({**source, "time": np.concatenate([np.arange(10), np.arange(10) + 30]) / 100}, NAMES, 100))
            == 40
        )

    def test_not_finite_and_limits(self):
        values = np.zeros((10, 2))
        values[4, 1] = np.inf
        with pytest.raises(MediaError, match="inf at row 4, column ay"):
            read_signal(values, NAMES, 10)
        with pytest.raises(MediaError, match="limit of 5 s"):
            read_signal(np.zeros((60, 2)), NAMES, 10, limits=Limits(max_seconds=5))
        with pytest.raises(MediaError, match="limit of 5"):
            read_signal(("ax,ay\n" + "1,2\n" * 60).encode(), NAMES, 10, limits=Limits(max_seconds=5))

    @pytest.mark.parametrize(
        ("channels", "rate", "gap", "message"),
        [
            ("ax", 10, None, "sequence of names"),
            ([], 10, None, "sequence of names"),
            (["ax", "AX"], 10, None, "repeats"),
            (["ax"], 0, None, "sampling_rate"),
            (["ax"], float("nan"), None, "sampling_rate"),
            (["ax"], 10, -1, "max_gap"),
        ],
    )
    def test_bad_arguments(self, channels, rate, gap, message):
        with pytest.raises(MediaError, match=message):
            read_signal(np.zeros((5, 1)), channels, rate, max_gap=gap)
