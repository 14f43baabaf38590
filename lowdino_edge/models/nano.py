"""NanoNet: a tiny fully convolutional residual network for images of 16 to 64 px.

Convolution, BatchNorm and ReLU only, so that it folds and quantizes to static int8 like a ResNet.
Suffixes: B batch, C channels, H and W pixels, h and w cells of a feature map, D embedding width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Halve(nn.Module):
    """2x2 average pooling that rounds odd maps up (9 -> 5), as the strided 3x3 convolution beside it does."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        # decided by shape, since runtimes do not take ceil_mode, which even maps do not need
        odd = x_BChw.shape[-2] % 2 == 1 or x_BChw.shape[-1] % 2 == 1
        return F.avg_pool2d(x_BChw, 2, 2, ceil_mode=odd, count_include_pad=False)


class NanoBlock(nn.Module):
    """Two 3x3 convolutions and a residual sum: (B, C_in, h, w) -> (B, C_out, ceil(h / stride), ceil(w / stride))."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            # pooled first: a strided 1x1 convolution would look at one cell of four
            pool = Halve() if stride == 2 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x_BChw: Tensor) -> Tensor:
        y_BChw = self.act(self.bn1(self.conv1(x_BChw)))
        return self.act(self.bn2(self.conv2(y_BChw)) + self.shortcut(x_BChw))


class NanoNet(nn.Module):
    """A strided stem and residual stages at strides 2, 4, 8, ...; the last stage's width is the embedding's.

    The defaults spend their work where a CPU is fast: no block at stride 2 (few channels over many cells ran at a
    tenth of the rate), wide blocks on small maps.

    Args:
        widths: channels of each stage.
        blocks: residual blocks of each stage; 0 leaves the stage to the stem.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256), blocks: tuple[int, ...] = (0, 1, 1)) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 4, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        c_in = widths[0]
        for stage, (c, n) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(n):
                layers.append(NanoBlock(c_in, c, 2 if stage > 0 and i == 0 else 1))
                c_in = c
        self.stages = nn.Sequential(*layers)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """The last feature map, (B, D, ceil(H / 8), ceil(W / 8)) with three stages."""
        return self.stages(self.stem(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return self.forward_head(self.forward_features(x_BCHW))

    def forward_head(self, y_BDhw: Tensor) -> Tensor:
        """Averaged over the map."""
        return y_BDhw.mean((2, 3))
