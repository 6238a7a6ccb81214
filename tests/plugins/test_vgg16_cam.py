"""VGG-16-CAM: its layers, and its published weights in both forms, written here with few channels.

The reference is computed as the published programs do: blue, green, red less their means, two groups in Caffe.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from instsearch_cli.data import Grid
from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.importing import import_weights
from instsearch_cli.testing import ExtractorContract, make_image
from instsearch_plugins.extractors import vgg16_cam
from instsearch_plugins.extractors.class_maps import class_names, class_weights
from instsearch_plugins.extractors.networks import MEAN, STD
from instsearch_plugins.extractors.vgg16_cam import VGG16CAM, VGG16CAMNetwork, from_bgr, ungrouped

CPU = torch.device("cpu")
NAMES = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
SMALL = ((4, 4), (4, 4), (6, 6, 6), (6, 6, 6), (6, 8, 6))
CLASSES = 10


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The same network with few channels and classes."""
    monkeypatch.setattr(vgg16_cam, "BLOCKS", SMALL)
    monkeypatch.setattr(vgg16_cam, "CHANNELS", 8)
    monkeypatch.setattr(VGG16CAM, "build", classmethod(lambda cls: VGG16CAMNetwork(CLASSES)))
    monkeypatch.setenv("INSTSEARCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("INSTSEARCH_OFFLINE", "1")


@pytest.fixture
def published():
    """The weights by Caffe's names, weight and bias, as the authors hold them: CAM_conv in two groups."""
    rng, layers, c = np.random.default_rng(0), {}, 3
    for name, d in zip(NAMES, [d for block in SMALL for d in block], strict=True):
        scale = (2 / (9 * c)) ** 0.5 / (64 if name == "conv1_1" else 1)
        layers[name] = [scale * rng.standard_normal((d, c, 3, 3)), rng.uniform(-0.1, 0.2, d)]
        c = d
    layers["CAM_conv"] = [0.3 * rng.standard_normal((8, c // 2, 3, 3)), rng.uniform(-0.1, 0.2, 8)]
    layers["CAM_fc"] = [rng.standard_normal((CLASSES, 8)), rng.standard_normal(CLASSES)]
    return {name: [x.astype(np.float32) for x in blobs] for name, blobs in layers.items()}


# -- the published programs ----------------------------------------------------------------------------


def reference(published, pixels, means=(103.939, 116.779, 123.68)):
    """conv5_1, CAM_conv and CAM_fc of u8[H, W, 3] in RGB, as Caffe computes them.

    Around the picture is what torchvision's zero stands for, which Caffe's zero nearly is.
    """
    x = torch.from_numpy(pixels[:, :, ::-1].astype(np.float32) - np.float32(means)).permute(2, 0, 1)[None]
    around = np.float32([255 * m for m in MEAN[::-1]]) - np.float32(means)
    rim = [F.pad(x[:, i : i + 1], (1, 1, 1, 1), value=float(v)) for i, v in enumerate(around)]
    kept = {}
    for name in (*NAMES, "CAM_conv"):
        weight, bias = map(torch.from_numpy, published[name])
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        if name == "conv1_1":
            x = F.relu(F.conv2d(torch.cat(rim, 1), weight, bias))
        else:
            x = F.relu(F.conv2d(x, weight, bias, padding=1, groups=2 if name == "CAM_conv" else 1))
        kept[name] = x[0]
    weight, bias = map(torch.from_numpy, published["CAM_fc"])
    return kept["conv5_1"], kept["CAM_conv"], weight @ kept["CAM_conv"].mean((1, 2)) + bias


# -- and their files -----------------------------------------------------------------------------------


def varint(n):
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def message(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field, value):
    return varint(field << 3) + varint(value)


def older_blob(x):
    """A BlobProto of Caffe's first form: num, channels, height and width."""
    sides = [1] * (4 - x.ndim) + list(x.shape)
    return b"".join(number(i, n) for i, n in enumerate(sides, 1)) + message(5, x.astype("<f4").tobytes())


def newer_blob(x):
    shape = message(1, b"".join(map(varint, x.shape)))
    return message(7, shape) + message(5, x.astype("<f4").tobytes())


def write_caffe(path, layers, older=True):
    """A NetParameter with layers in field 2, as Zhou et al. wrote theirs, or in 100."""
    out = message(1, b"VGG_ILSVRC_16_layers")
    field, name_field, blobs_field = (2, 4, 6) if older else (100, 1, 7)
    blob = older_blob if older else newer_blob
    for name, blobs in layers.items():
        content = message(name_field, name.encode())
        content += b"".join(message(blobs_field, blob(x)) for x in blobs)
        out += message(field, content)
        relu = message(name_field, name.replace("conv", "relu").encode())
        out += message(field, relu)
    path.write_bytes(out)


def write_keras(path, layers, model=False):
    """What Keras 1 over Theano saves: kernels turned, dense weights inputs x outputs, most layers unnamed."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if model else file
        order, count = [], 17  # the session had made other layers before
        for name, (weight, bias) in layers.items():
            called = {"conv5_1": "relu5_1", "conv5_3": "relu5_3", "CAM_conv": "CAM_relu", "CAM_fc": "dense_3"}
            key = called.get(name, f"convolution2d_{count}")
            count += 1
            pad = f"zeropadding2d_{count}"
            for group, arrays in ((pad, []), (key, [(f"{key}_W", turn(name, weight)), (f"{key}_b", bias)])):
                made = root.create_group(group)
                order.append(group)
                made.attrs["weight_names"] = np.array([array for array, _ in arrays], "S")
                for array, values in arrays:
                    made[array] = values
        root.attrs["layer_names"] = np.array(order, "S")


def turn(name, weight):
    """One number after the other: theirs(d, c, y, x) = ours(d, c, 2 - y, 2 - x)."""
    if weight.ndim == 2:
        return weight.T
    out = np.empty_like(weight)
    for y in range(3):
        for x in range(3):
            out[:, :, y, x] = weight[:, :, 2 - y, 2 - x]
    return out


def whole(published):
    """CAM_conv without groups, one output after the other."""
    weight, bias = published["CAM_conv"]
    D, half = weight.shape[:2]
    full = np.zeros((D, 2 * half, 3, 3), np.float32)
    for d in range(D):
        first = 0 if d < D // 2 else half
        full[d, first : first + half] = weight[d]
    return published | {"CAM_conv": [full, bias]}


FORMS = {
    "caffe, as published": lambda path, p: write_caffe(path, p),
    "caffe, upgraded": lambda path, p: write_caffe(path, p, older=False),
    "caffe, one group": lambda path, p: write_caffe(path, whole(p)),
    "keras": lambda path, p: write_keras(path, whole(p)),
    "keras, a whole model": lambda path, p: write_keras(path, whole(p), model=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_published_weights_give_what_the_published_network_gives(form, small, published, tmp_path):
    FORMS[form](tmp_path / "weights.published", published)
    done = import_weights(VGG16CAM, tmp_path / "weights.published", tmp_path)
    assert done.path == tmp_path / "vgg16-cam.pth"
    assert done.parameters == sum(p.numel() for p in VGG16CAMNetwork(CLASSES).parameters())
    image = make_image(96, 64)
    extractor = VGG16CAM(VGG16CAM.Config(cam_layer=VGG16CAM.cam), CPU)
    (features,) = extractor.extract([image])
    values, cam, logits = reference(published, image.pixels)
    assert cam.any()
    torch.testing.assert_close(features.values, values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.cam, cam, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.logits, logits, rtol=1e-4, atol=1e-4)
    assert features.grid == Grid.over(4, 6, image.size)
    assert torch.equal(class_weights(VGG16CAM), torch.from_numpy(published["CAM_fc"][0]))


def test_swapped_means_are_the_retrieval_authors_input(small, published, tmp_path):
    write_caffe(tmp_path / "w.caffemodel", published)
    import_weights(VGG16CAM, tmp_path / "w.caffemodel", tmp_path)
    image = make_image(96, 64)
    plain, swapped = (
        VGG16CAM(VGG16CAM.Config(layer="features.0", swap_means=swap), CPU).extract([image])[0].values
        for swap in (False, True)
    )
    weight, bias = map(torch.from_numpy, published["conv1_1"])
    for values, means in ((plain, (103.939, 116.779, 123.68)), (swapped, (123.68, 116.779, 103.939))):
        x = torch.from_numpy(image.pixels[:, :, ::-1].astype(np.float32) - np.float32(means)).permute(2, 0, 1)
        expected = F.conv2d(x[None], weight, bias)[0]  # inside, where no padding is in reach
        torch.testing.assert_close(values[:, 1:-1, 1:-1], expected, rtol=1e-4, atol=1e-4)
    assert (plain - swapped).abs().max() > 0.1
    # at the border its zero is the mean, as theirs: nearly, for torchvision's means are rounded
    x = F.pad(torch.from_numpy(image.pixels[:, :, ::-1].astype(np.float32)).permute(2, 0, 1), (1, 1, 1, 1))
    x[:, 1:-1, 1:-1] -= torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    torch.testing.assert_close(swapped, F.conv2d(x[None], weight, bias)[0], rtol=1e-2, atol=0.05)


def test_a_state_dict_is_taken_as_it_is(small, tmp_path):
    """What `instsearch train vgg16-cam` writes: torchvision's input already."""
    torch.manual_seed(0)
    network = VGG16CAMNetwork(CLASSES)
    torch.save(network.state_dict(), tmp_path / "vgg16-cam.pth")
    image = make_image(64, 48)
    (features,) = VGG16CAM(VGG16CAM.Config(logits=True), CPU).extract([image])
    x = torch.from_numpy(image.pixels).permute(2, 0, 1)[None] / 255
    x = torchvision.transforms.functional.normalize(x, MEAN, STD)
    with torch.no_grad():
        torch.testing.assert_close(features.values, network.features[:26](x)[0])
        torch.testing.assert_close(features.logits, network.eval()(x)[0])


def test_a_network_trained_on_other_classes_has_as_many_logits(small, tmp_path):
    torch.save(VGG16CAMNetwork(4).state_dict(), tmp_path / "vgg16-cam.pth")
    (features,) = VGG16CAM(VGG16CAM.Config(logits=True), CPU).extract([make_image(64, 48)])
    assert features.logits.shape == (4,)
    assert class_weights(VGG16CAM).shape == (4, 8)
    torch.save({"classifier.weight": torch.zeros(4, 7)}, tmp_path / "vgg16-cam.pth")
    with pytest.raises(InstsearchError, match=r"no tensor 'features\.0\.weight'"):
        _ = VGG16CAM(VGG16CAM.Config(), CPU).network


def test_ungrouped():
    weight = torch.arange(1.0, 9).reshape(4, 2, 1, 1)
    assert ungrouped(weight, 4)[:, :, 0, 0].tolist() == [
        [1, 2, 0, 0],
        [3, 4, 0, 0],
        [0, 0, 5, 6],
        [0, 0, 7, 8],
    ]
    assert torch.equal(ungrouped(weight, 2), weight)
    x, w = torch.randn(1, 12, 5, 5), torch.randn(6, 4, 3, 3)
    torch.testing.assert_close(F.conv2d(x, ungrouped(w, 12)), F.conv2d(x, w, groups=3))


def test_from_bgr_by_hand():
    """One pixel of (R, G, B) = (200, 100, 50) and a kernel that reads blue alone, weight 2, bias 1."""
    weight, bias = torch.tensor([2.0, 0.0, 0.0]).reshape(1, 3, 1, 1), torch.ones(1)
    w, b = from_bgr(weight, bias)
    assert w[0, :2].abs().max() == 0
    x = (torch.tensor([200.0, 100.0, 50.0]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert float(w[0, :, 0, 0] @ x + b) == pytest.approx(2 * (50 - 103.939) + 1, abs=1e-3)


def test_the_network_is_vgg16_up_to_conv5_3_with_a_layer_more():
    with torch.device("meta"):
        mine, vgg = VGG16CAM.build(), torchvision.models.vgg16(weights=None)
    theirs = {name: x.shape for name, x in vgg.state_dict().items() if name.startswith("features")}
    shapes = {name: x.shape for name, x in mine.state_dict().items()}
    assert shapes.items() >= theirs.items()
    assert {name: tuple(x) for name, x in shapes.items() if name not in theirs} == {
        "features.30.weight": (1024, 512, 3, 3),
        "features.30.bias": (1024,),
        "classifier.weight": (1000, 1024),
        "classifier.bias": (1000,),
    }
    assert sum(p.numel() for p in mine.parameters()) == 14_714_688 + 4_719_616 + 1_025_000
    for i in range(30):
        assert type(mine.features[i]) is type(vgg.features[i])
    with torch.device("meta"):
        assert mine.features(torch.empty(1, 3, 720, 1024)).shape == (1, 1024, 45, 64)
    assert list(vgg16_cam.caffe_names().values()) == [*NAMES, "CAM_conv", "CAM_fc"]
    assert vgg16_cam.caffe_names()["features.24"] == "conv5_1"
    assert len(class_names(VGG16CAM)) == 1000


class TestContract(ExtractorContract):
    component = VGG16CAM
    options = {"cam_layer": "features.31", "swap_means": "true"}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def weights(self, small, published, tmp_path):
        write_keras(tmp_path / "w.h5", whole(published))
        import_weights(VGG16CAM, tmp_path / "w.h5", tmp_path)


# -- files that are not it -----------------------------------------------------------------------------


def other_classes(p):
    return p | {"CAM_fc": [p["CAM_fc"][0][:7], p["CAM_fc"][1][:7]]}


def plain_vgg(p):
    return {name: blobs for name, blobs in p.items() if name in NAMES} | {"fc6": p["CAM_fc"]}


@pytest.mark.parametrize(
    ("change", "write", "reason"),
    [
        (plain_vgg, write_caffe, "no layer CAM_conv with a weight and a bias; its last ones are .*fc6"),
        (other_classes, write_caffe, r"CAM_fc's weight has shape \(1, 1, 7, 8\), vgg16-cam's has \(10, 8\)"),
        (
            lambda p: p | {"CAM_conv": [p["CAM_conv"][0], p["CAM_conv"][1][:5]]},
            write_caffe,
            r"CAM_conv's bias has shape \(1, 1, 1, 5\), vgg16-cam's has \(8,\)",
        ),
        (
            lambda p: p | {"CAM_conv": [p["CAM_conv"][0][:, :2], p["CAM_conv"][1]]},  # 3 groups of 8
            write_caffe,
            r"CAM_conv's weight has shape \(8, 2, 3, 3\), vgg16-cam's has \(8, 6, 3, 3\)",
        ),
        (
            lambda p: p | {"CAM_conv": [np.zeros((8, 4, 3, 3), "f4"), p["CAM_conv"][1]]},
            write_caffe,
            r"CAM_conv's weight has shape \(8, 4, 3, 3\)",
        ),
        (
            lambda p: plain_vgg(p),
            write_keras,
            "not the weights of vgg16-cam: 14 layers have weights, of its own 15",
        ),
        (
            lambda p: other_classes(whole(p)),
            write_keras,
            r"has shape \(8, 7\), vgg16-cam's CAM_fc has \(8, 10\)",
        ),
        (lambda p: p, write_keras, r"has shape \(8, 3, 3, 3\), vgg16-cam's CAM_conv has \(8, 6, 3, 3\)"),
    ],
)
def test_other_networks_are_told_apart(change, write, reason, small, published, tmp_path):
    write(tmp_path / "w", change(published))
    with pytest.raises(InstsearchError, match=reason):
        VGG16CAM.import_weights(tmp_path / "w")


def test_other_containers_and_what_is_missing(small, tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"(lp1\ncnumpy\n")
    with pytest.raises(InstsearchError, match=r"refused\.\nTake vgg16CAM_train_iter_90000\.caffemodel"):
        VGG16CAM.import_weights(tmp_path / "w.pkl")
    (tmp_path / "w.pkl").unlink()
    with pytest.raises(InstsearchError, match=r"(?s)Published: vgg16CAM.*weights import vgg16-cam FILE"):
        _ = VGG16CAM(VGG16CAM.Config(), CPU).weights
    with pytest.raises(InstsearchError, match="Published: vgg16CAM"):
        class_weights(VGG16CAM)


def test_a_cut_file_is_damaged(small, published, tmp_path):
    for write in (write_caffe, write_keras):
        write(tmp_path / "w", whole(published))
        content = (tmp_path / "w").read_bytes()
        (tmp_path / "w").write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(InstsearchError, match=r"damaged|not the weights"):
            VGG16CAM.import_weights(tmp_path / "w")
