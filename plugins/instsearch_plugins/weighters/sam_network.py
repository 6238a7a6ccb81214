"""The networks of SAM-VGG and SAM-ResNet (Cornia et al., IEEE Transactions on Image Processing 27, 2018).

A dilated VGG-16 or ResNet-50 of stride 8, an attentive convolutional LSTM, two sets of learned Gaussian
priors, a 1 x 1 convolution and bilinear upsampling by 16. The authors trained it with Theano, whose
paddings and upsampling differ by half a cell from what torch has ready; here they are Theano's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

CHANNELS = 512  #: of the features, of the LSTM's state and of the maps behind each prior
STEPS = 4  #: of the LSTM
PRIORS = 16  #: Gaussians in each of the two sets
UPSAMPLING = 16
EPSILON = 1e-7  #: Keras'
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  #: VGG-16: channels, convolutions
STAGES = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 1, 2), (512, 3, 1, 4))  #: width, blocks, stride, dilation


def gaussian_priors(parameters: Tensor, h: int, w: int) -> Tensor:
    """Gaussian maps with learned centres and widths, each with its largest value at 1.

    f_k(y, x) = exp(-(x - mx_k)^2 / (2 sx_k^2 + e) - (y - my_k)^2 / (2 sy_k^2 + e)),  then  f_k / max f_k

    where x takes w values spread over [0, 1] and y h values over [(1 - h/w)/2, (1 + h/w)/2]; mx is clipped to
    [.25, .75], my to [.35, .65], sx to [.1, .9], sy to [.2, .8], and e = 1e-7.
    f32[4 K] = mx, my, sx, sy of all K -> f32[K, h, w].
    """
    mx, my, sx, sy = parameters[:, None, None].chunk(4)
    x = torch.linspace(0, 1, w, device=parameters.device)
    y = torch.linspace((1 - h / w) / 2, (1 + h / w) / 2, h, device=parameters.device)[:, None]
    f = torch.exp(
        -((x - mx.clamp(0.25, 0.75)) ** 2) / (2 * sx.clamp(0.1, 0.9) ** 2 + EPSILON)
        - (y - my.clamp(0.35, 0.65)) ** 2 / (2 * sy.clamp(0.2, 0.8) ** 2 + EPSILON)
    )
    return f / f.amax((1, 2), keepdim=True)


def attention(energy: Tensor) -> Tensor:
    """A = exp(Z) / sum exp(Z) over all positions: [B, 1, h, w] -> the same."""
    return energy.flatten(1).softmax(1).view_as(energy)


def lstm_update(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM's cell and output.

    c' = f . c + i . tanh(g),  h = o . tanh(c')

    where i = sigmoid, f = sigmoid, o = sigmoid and g, before their functions, are the quarters i, f, g, o of
    ``gates`` [B, 4 D, h, w]. Returns h and c', each [B, D, h, w].
    """
    i, f, g, o = gates.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def upsample(x: Tensor, ratio: int = UPSAMPLING) -> Tensor:
    """Bilinear upsampling as Theano has it: value i of the input lies at i r + floor((r - 1)/2) of the output.

    Beyond the first and the last value the map is constant. [B, 1, h, w] -> [B, 1, r h, r w].
    """
    ramp = torch.arange(1, ratio + 1, device=x.device, dtype=x.dtype) / ratio
    tent = torch.cat([ramp, ramp[:-1].flip(0)])
    pad = 2 * ratio - (ratio - 1) // 2 - 1
    bordered = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(
        bordered,
        torch.outer(tent, tent)[None, None],
        stride=ratio,
        padding=pad,
        output_padding=(ratio + 1) % 2,
    )


def same_convolution(inputs: int, outputs: int, k: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution whose output is as large as its input."""
    return nn.Conv2d(inputs, outputs, k, padding=dilation * (k // 2), dilation=dilation, bias=bias)


class SameMaxPool(nn.Module):
    """Theano's maximum over 2 x 2 with border mode "same": one row and column are added before the first.

    y_i = max(x_{s i - 1}, x_{s i}),  i < ceil(n / s)
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, h, w] -> [B, D, ceil(h / s), ceil(w / s)]."""
        h, w = (-(-n // self.stride) for n in x.shape[2:])
        return F.max_pool2d(x, 2, self.stride, padding=1)[:, :, :h, :w]


def dilated_vgg() -> nn.Sequential:
    """VGG-16 up to conv5_3, with pool4 at stride 1 and conv5 at dilation 2: [B, 3, H, W] -> [B, 512, H/8, W/8]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 3
    for block, (outputs, count) in enumerate(BLOCKS, 1):
        for i in range(1, count + 1):
            layers[f"block{block}_conv{i}"] = same_convolution(inputs, outputs, 3, 2 if block == 5 else 1)
            layers[f"block{block}_relu{i}"] = nn.ReLU(inplace=True)
            inputs = outputs
        if block < 5:
            layers[f"block{block}_pool"] = nn.MaxPool2d(2) if block < 3 else SameMaxPool(5 - block)
    return nn.Sequential(layers)


class Normalised(nn.Sequential):
    """A convolution with its bias, and batch normalisation by the statistics of the training."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        # 1e-5 is what Keras 1.1, which the authors name, had; 1e-3 came with 1.2
        super().__init__(convolution, FrozenBatchNorm2d(convolution.out_channels, eps=1e-5))


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions, with Keras' stride on the first one and on the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.branch2a = Normalised(nn.Conv2d(inputs, width, 1, stride))
        self.branch2b = Normalised(same_convolution(width, width, 3, dilation))
        self.branch2c = Normalised(nn.Conv2d(width, outputs, 1))
        self.branch1 = (
            Normalised(nn.Conv2d(inputs, outputs, 1, stride)) if inputs != outputs else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, 4 width, h / stride, w / stride]."""
        y: Tensor = self.branch2c(self.branch2b(self.branch2a(x).relu_()).relu_())
        return F.relu(y + self.branch1(x), inplace=True)


def dilated_resnet() -> nn.Sequential:
    """ResNet-50 whose last two stages have dilations 2 and 4 for their strides, and a convolution to 512 channels.

    [B, 3, H, W] -> [B, 512, H/8, W/8]
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=Normalised(nn.Conv2d(3, 64, 7, stride=2, padding=3)),
        relu=nn.ReLU(inplace=True),
        pool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inputs = 64
    for stage, (width, count, stride, dilation) in enumerate(STAGES, 2):
        for i in range(count):
            layers[f"res{stage}{'abcdef'[i]}"] = Bottleneck(inputs, width, 1 if i else stride, dilation)
            inputs = 4 * width
    layers["reduce"] = same_convolution(inputs, CHANNELS, 3)
    layers["reduce_relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class AttentiveConvLSTM(nn.Module):
    """An LSTM that looks at the same features several times, each time at other places.

    Z = V_a * tanh(W_a * h + U_a * X + b_a),  A = softmax(Z),  gates = W * (A . X) + U * h + b

    All kernels are 3 x 3; W and U have those of i, f, g and o one after the other; there are no peepholes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W_a = same_convolution(channels, channels, 3)
        self.U_a = same_convolution(channels, channels, 3)
        self.V_a = same_convolution(channels, 1, 3, bias=False)
        self.W = same_convolution(channels, 4 * channels, 3)
        self.U = same_convolution(channels, 4 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The last output h: [B, D, h, w] -> the same."""
        seen = self.U_a(x)  # the same in every step
        h = c = x.new_zeros(*x.shape[:2], 1, 1)  # broadcast; its convolution costs nothing
        for _ in range(STEPS):
            a = attention(self.V_a(torch.tanh(self.W_a(h) + seen)))
            h, c = lstm_update(self.W(a * x) + self.U(h), c)
        return h


class LearnedPrior(nn.Module):
    """Sixteen Gaussians beside the features, and a dilated convolution over both."""

    def __init__(self) -> None:
        super().__init__()
        self.gaussians = nn.Parameter(torch.full((4 * PRIORS,), 0.5))
        self.convolution = same_convolution(CHANNELS + PRIORS, CHANNELS, 5, dilation=4)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 512, h, w] -> the same."""
        priors = gaussian_priors(self.gaussians.float(), *x.shape[2:]).to(x.dtype)
        return F.relu(self.convolution(torch.cat([x, priors.expand(len(x), -1, -1, -1)], 1)))


class SAM(nn.Module):
    """The saliency attentive model over one of the two feature extractors."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.convlstm = AttentiveConvLSTM(CHANNELS)
        self.prior1 = LearnedPrior()
        self.prior2 = LearnedPrior()
        self.output = nn.Conv2d(CHANNELS, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """BGR less the means, [B, 3, H, W] -> saliency, not below 0, [B, 1, 2 H, 2 W]; H and W multiples of 8."""
        y = self.prior2(self.prior1(self.convlstm(self.features(x))))
        return upsample(F.relu(self.output(y)))
