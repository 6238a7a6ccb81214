"""Weights of timm's models: from files, from the hub's cache, or what to do about them."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")

import httpx
import timm
from huggingface_hub import errors
from safetensors.torch import save_file

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.weights import load_state_dict, sha256
from instsearch_cli.testing import make_image
from instsearch_plugins.extractors import timm_models
from instsearch_plugins.extractors.timm import Timm, described
from instsearch_plugins.extractors.timm_models import LISTED
from small_pictures import noise

CPU = torch.device("cpu")
MODEL = "test_vit.r160_in1k"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("INSTSEARCH_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in timm.create_model("test_vit").state_dict().items()}


def make(path="", model=MODEL, **options):
    return Timm(Timm.Config(model=model, weights=str(path), **options), CPU)


def saved(path: Path, state) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def test_both_kinds_of_files_give_the_same_maps(tmp_path, state, monkeypatch):
    paths = [saved(tmp_path / name, state) for name in ("w.safetensors", "w.pth")]
    paths.append(
        saved(tmp_path / "wrapped.pth", {"state_dict": {f"module.{k}": v for k, v in state.items()}})
    )
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    paths.append(saved(tmp_path / "headless.pth", headless))
    maps = [make(path).extract([make_image()])[0].values for path in paths]
    assert all(torch.equal(maps[0], other) for other in maps[1:])
    saved(tmp_path / "folder" / f"{MODEL}.safetensors", state)
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path / "folder"))
    assert torch.equal(make().extract([make_image()])[0].values, maps[0])


def test_what_is_missing_or_of_another_network_is_counted(tmp_path, state):
    some = dict(list(state.items())[:-5])
    some["norm.gamma"] = some.pop("blocks.0.norm1.weight")
    with pytest.raises(InstsearchError) as error:
        _ = make(saved(tmp_path / "some.safetensors", some)).network
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'some.safetensors'}: not the weights of {MODEL}: ")
    assert re.search(r"(\d+) of (\d+) tensors are missing, 'blocks\.0\.norm1\.weight' first", said)
    assert "1 others are in it, 'norm.gamma' first" in said
    headless = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    path = saved(tmp_path / "headless.pth", headless)
    with pytest.raises(InstsearchError, match=r"no tensor 'head\.weight'"):
        _ = make(path, logits=True).network
    path = saved(tmp_path / "small.pth", state | {"pos_embed": state["pos_embed"][:, :50].clone()})
    with pytest.raises(
        InstsearchError, match=r"tensor 'pos_embed' has shape \(1, 50, 64\), the network's has"
    ):
        _ = make(path).network
    path = saved(tmp_path / "nan.pth", state | {"norm.bias": torch.full((64,), torch.nan)})
    with pytest.raises(InstsearchError, match=r"damaged: 64 values of tensor 'norm\.bias' are not finite"):
        _ = make(path).network


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0{not json at all}"])
def test_a_damaged_file_of_safetensors(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InstsearchError, match=r"w\.safetensors: not a file of safetensors, or a damaged one"):
        load_state_dict(path)


def test_names_that_the_authors_gave_are_renamed_by_timm(tmp_path, state):
    """DINOv2's have the token that masked patches had in training."""
    published = state | {"mask_token": torch.zeros(1, 64)}
    maps = [
        make(saved(tmp_path / name, x)).extract([make_image()])[0].values
        for name, x in (("own.pth", state), ("published.pth", published))
    ]
    assert torch.equal(*maps)


def test_efficientnet_lite_has_timms_tensors_in_timms_order(tmp_path, cli):
    torch.manual_seed(0)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    other = {f"_{i}.{name.rpartition('.')[2]}": x.clone() for i, (name, x) in enumerate(state.items())}
    path = saved(tmp_path / "efficientnet-lite0-1234.pth", other)
    outcome = cli("weights", "import", "tf_efficientnet_lite0", path)
    assert "4,652,008 parameters" in outcome.out
    line = next(s for s in cli("weights").out.splitlines() if s.startswith("tf_efficientnet_lite0 "))
    imported = tmp_path / "data/instsearch/weights/tf_efficientnet_lite0.pth"
    assert f"{imported}  (imported, sha256 {sha256(imported)[:12]}…)" in line
    for name, x in load_state_dict(imported).items():
        assert torch.equal(x, state[name])
    layer = {"model": "tf_efficientnet_lite0", "layer": "blocks.0"}
    direct, found = (make(place, **layer).extract([make_image()])[0] for place in (path, ""))
    assert torch.equal(direct.values, found.values)
    swapped = dict(zip(other, [*list(other.values())[1:], other["_0.weight"]], strict=True))
    with pytest.raises(InstsearchError, match="245 of 245 tensors are missing"):
        _ = make(saved(tmp_path / "swapped.pth", swapped), **layer).network


# -- the hub ---------------------------------------------------------------------------------------------


def test_the_hubs_cache_is_looked_into(tmp_path, state, cli):
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    hub = tmp_path / "hub" / f"models--timm--{name}"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0" * 40)
    path = saved(hub / "snapshots" / ("0" * 40) / "model.safetensors", state)
    assert make(model=name).weights == path
    row = next(s for s in cli("weights").out.splitlines() if s.startswith(f"{name} "))
    assert f"{path}  (cached; model.safetensors of timm/{name}" in row
    assert "apache-2.0" in row


def test_without_weights_it_says_what_to_fetch_and_under_which_licence():
    with pytest.raises(InstsearchError) as error:
        _ = make(model="vit_small_patch16_dinov3.lvd1689m").weights
    said = str(error.value)
    assert "no weights for vit_small_patch16_dinov3.lvd1689m (INSTSEARCH_OFFLINE is set)." in said
    assert "https://huggingface.co/timm/vit_small_patch16_dinov3.lvd1689m (licence dinov3-license)" in said
    assert len(said.splitlines()) == 2
    with pytest.raises(InstsearchError, match="timm publishes none on the hub"):
        _ = make(model="test_vit4").weights


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            errors.GatedRepoError,
            f"accept their licence at https://huggingface.co/timm/{MODEL} and run `hf auth",
        ),
        (errors.RepositoryNotFoundError, "the download failed: no"),
        (OSError, "the download failed: no"),
    ],
)
def test_a_download_that_fails(monkeypatch, kind, said):
    def fail(*asked, **options):
        response = httpx.Response(401, request=httpx.Request("GET", "https://huggingface.co"))
        raise kind("no") if kind is OSError else kind("no", response=response)

    monkeypatch.setenv("INSTSEARCH_OFFLINE", "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(InstsearchError, match=re.escape(f"no weights for {MODEL} ({said}")):
        _ = make().weights


def test_listed_models_are_timms_with_timms_licences():
    for name, listed in LISTED.items():
        config = timm.get_pretrained_cfg(name)
        assert config.hf_hub_id == listed.repository(name)
        assert listed.licence.split(",")[0] == config.license


# -- the program -----------------------------------------------------------------------------------------


def test_without_the_package_one_line_says_how_to_get_it(cli, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *more):
        if name == "timm":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", absent)
    timm_models.facts.cache_clear()
    described.cache_clear()
    (tmp_path / "photos").mkdir()
    outcome = cli("extract", tmp_path / "photos", "--index", tmp_path / "i", "--extractor", "timm", status=1)
    assert "extractor timm needs the package timm: run `pip install 'instsearch[timm]'`" in outcome.err
    assert cli("weights").out.count("DINOv3") == 2


def test_from_photographs_to_boxes(cli, tmp_path, state):
    import PIL.Image

    (tmp_path / "photos").mkdir()
    for i in range(6):
        pixels = noise()
        PIL.Image.fromarray(pixels[:, :: -1 if i % 2 else 1] // (1 + i // 2)).save(
            tmp_path / f"photos/{i}.png"
        )
    path = saved(tmp_path / "w.safetensors", state)
    index = tmp_path / "index"
    options = ("--set", f"extractor.model={MODEL}", "--set", "extractor.class-token=true", "--weights", path)
    asked = ("--extractor", "timm", "--detector", "patches", "--encoder", "regions", *options)
    cli("index", tmp_path / "photos", "--index", index, *asked)
    answer = cli("query", tmp_path / "photos/0.png", "--box", "0,0,64,48", "--index", index, "--json").json
    best = answer["hits"][0]
    assert best["image"].endswith("0.png")
    assert best["box"] in [[x, y, 128 / n, 96 / n] for n, x, y in ((2, 0, 0), (4, 0, 0), (4, 32, 24))]
