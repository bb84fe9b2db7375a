"""The command: what it prints, bad input, and a process killed on its way, which goes on and has opened no file for writing."""

import signal

import pytest

from datamodules.corpora.folder.state import read_state
from disentangled_ml.commands import scan
from disentangled_ml.commands.schemas import ScanConfig
from disentangled_ml.config import ConfigError, load_config
from tests import warm
from tests.datamodules.corpora.folder.music import make, rows_of

N = 6
# At the fourth file the process is killed; every state is saved; no file of the music may be opened but for reading.
KILLED = """
import os, sys
from datamodules.corpora.folder import scan
scan.SAVE_SECONDS, read_file, n_read = 0.0, scan.read_file, []
def read_or_die(*arguments):
    n_read.append(1)
    if len(n_read) == 4:
        os.kill(os.getpid(), 9)
    return read_file(*arguments)
scan.read_file = read_or_die
"""
READ_ONLY = """
import os, sys
def watch(event, arguments):
    if event in ("os.rename", "os.remove", "os.utime", "os.chmod", "os.truncate", "os.mkdir", "os.rmdir"):
        assert "/music/" not in str(arguments[0]), event
    if event == "open" and "/music/" in str(arguments[0]):
        assert not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC), arguments
sys.addaudithook(watch)
"""


@pytest.fixture
def folder(tmp_path):
    for number in range(N):
        make(tmp_path / "music" / f"{number}.mp3", number, genre="Rock", tempo="fast")
    return tmp_path


def run(folder, **how):
    command = warm.cold("scan", f"music={folder}/music", f"out={folder}/all.csv")
    process = warm.Popen(command, stdout=warm.subprocess.PIPE, stderr=warm.subprocess.PIPE, **how)
    return process, *process.communicate()


def test_it_prints_what_it_did(folder, capsys):
    scan.main(load_config(ScanConfig, [f"music={folder}/music", f"out={folder}/lists/all.csv"]))
    assert capsys.readouterr().out == (
        f"{folder}/lists/all.csv: 6 tracks of 6 audio files, 6 of them read\n"
        "  6 new, 0 changed, 0 moved, 0 returned, 0 removed\n"
        "  6 tempi left out, no legal BPM\n"
    )


def test_it_tells_how_many_rows_have_gone_and_where_they_are(folder, capsys):
    arguments = [f"music={folder}/music", f"out={folder}/all.csv"]
    scan.main(load_config(ScanConfig, arguments))
    lines = (folder / "all.csv").read_text().splitlines(keepends=True)
    (folder / "all.csv").write_text("".join(lines[:3]))
    capsys.readouterr()
    scan.main(load_config(ScanConfig, arguments))
    shown = capsys.readouterr().out
    assert f"  4 left out, as their rows were deleted, see {folder}/all.csv.scan/deleted.csv\n" in shown
    assert (
        "  4 of these deleted since the last scan: if you did not mean it, put the rows back from that list\n" in shown
    )
    (folder / "all.csv").write_text("".join(lines))
    scan.main(load_config(ScanConfig, arguments))
    assert "deleted" not in capsys.readouterr().out


def test_a_killed_scan_goes_on(folder):
    process, _, _ = run(folder, before=KILLED)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "all.csv").exists()
    assert len(read_state(folder / "all.csv.scan" / "state.jsonl").readings) == 3
    process, out, errors = run(folder, before=READ_ONLY)
    assert process.returncode == 0, errors
    assert "6 tracks of 6 audio files, 3 of them read\n  6 new" in out
    assert len(rows_of(folder / "all.csv")) == N


def test_the_home_folder_may_be_written_as_such(folder, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(folder))
    scan.main(load_config(ScanConfig, ["music=~/music", f"out={folder}/all.csv"]))
    assert "6 tracks" in capsys.readouterr().out


def test_bad_input(folder):
    with pytest.raises(ConfigError, match="music is empty: give it as music=VALUE"):
        load_config(ScanConfig, ["music=", f"out={folder}/all.csv"])
    with pytest.raises(ConfigError, match=r"music=.*nowhere does not exist: give music=DIR"):
        scan.main(load_config(ScanConfig, [f"music={folder}/nowhere", f"out={folder}/all.csv"]))
    with pytest.raises(ConfigError, match=r"out=.*0\.mp3 is there and would be lost"):
        scan.main(load_config(ScanConfig, [f"music={folder}/music", f"out={folder}/music/0.mp3"]))
