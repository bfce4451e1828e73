import pytest

from train.device import open_device
from vta_rt.errors import OptionError


def test_the_processor_is_always_there() -> None:
    assert open_device("cpu").type == "cpu"
    assert open_device().type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "", "cpu:0:1"])
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match=rf"^device '{name}' cannot be used here"):
        open_device(name)
