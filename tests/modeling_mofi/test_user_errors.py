"""A mistake of the user, or of the network, ends a command in one line."""

import httpx
import httpx2
import pytest

from modeling_mofi.training.arguments import MofiTrainingArguments
from modeling_mofi.user_errors import run_command


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("kind", ["ConnectError", "ReadTimeout", "RemoteProtocolError"])
def test_a_server_that_does_not_answer_is_no_traceback(library, kind):
    with pytest.raises(SystemExit, match=rf"^error: \[Errno 111\] refused \({kind}\).*Check the network") as stopped:
        run_command(raising(getattr(library, kind)("[Errno 111]\nrefused")))
    assert "\n" not in stopped.value.code


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(ValueError, match="report_to names neptune, which is not installed: pip install neptune"):
        MofiTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=["tensorboard", "neptune"])
