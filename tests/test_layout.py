"""Where things may stand in the package, beyond the direction of imports that `lint-imports` checks."""

import re

import pytest

from tests.conftest import ROOT

# Each family and data set has files of its own. Other code works for all of them, except for:
SHARED = {
    "backbones/tiny.py",  # tiny models of all families
    "backbones/diffusion/latents.py",  # the autoencoders' own ways to standardize latents
    "cli/app.py",
    "cli/prepare.py",  # a command per data set
    "cli/published_run.py",
    "metrics/protocols.py",  # the rules of each benchmark
    "features/extractor.py",  # the default family of `Extractor.from_pretrained`
}
PUBLISHED_COMMANDS = {"cli/spair.py", "cli/davis.py"}
FILES = {
    "spair": {
        "datasets/spair.py",
        "datasets/spair_u.py",
        "data/prepare_canvas.py",
        "sample/spair.py",
        "stages/sample.py",
        "cli/spair.py",
    },
    "davis": {"datasets/davis.py", "sample/davis.py", "stages/sample.py", "cli/davis.py"},
    "flux": {f"backbones/{kind}/{name}.py" for kind in ("families", "networks") for name in ("flux", "flux2")}
    | PUBLISHED_COMMANDS,
    "sd3": {"backbones/families/sd3.py", "backbones/networks/sd3.py"},
    "pixart": {"backbones/families/pixart.py", "backbones/networks/pixart.py"},
    "qwen": {"backbones/families/qwen_image.py", "backbones/networks/qwen_image.py"},
    "sana": {"backbones/families/sana.py", "backbones/networks/sana.py"},
    "dinov2": {"backbones/families/vit.py", "backbones/networks/vit.py"},
    "unet": {"backbones/families/unet.py", "backbones/networks/unet.py"},
}


@pytest.mark.parametrize("word", FILES)
def test_only_its_own_files_name_a_data_set_or_a_model(word: str) -> None:
    for path in (*ROOT.glob("pipeline/ditf/**/*.py"), *ROOT.glob("stages/*.py")):
        name = path.relative_to(ROOT).as_posix().removeprefix("pipeline/ditf/")
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
        assert name in SHARED | FILES[word] or word not in code.lower(), name
