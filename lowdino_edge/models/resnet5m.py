"""ResNet5M, the convolutional backbone of LowDINO (arXiv 2305.17791): 4,956,480 parameters, 512-d."""

from __future__ import annotations

from torch import Tensor, nn

# (width, stride of the first block, blocks)
STAGES = ((64, 1, 3), (128, 2, 1), (128, 1, 5), (512, 2, 1))


class BasicBlock(nn.Module):
    """3x3-3x3 with BatchNorm; the shortcut is a 1x1 convolution with BatchNorm where width or stride changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x_BChw: Tensor) -> Tensor:
        y_BChw = self.act(self.bn1(self.conv1(x_BChw)))
        return self.act(self.bn2(self.conv2(y_BChw)) + self.shortcut(x_BChw))


class ResNet5M(nn.Module):
    """7x7/2 stem, 3x3/2 max-pool, basic blocks of 64, 128 and 512 channels (total stride 16), global average pool."""

    num_features = 512

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        layers: list[nn.Module] = []
        c_in = 64
        for width, stride, n in STAGES:
            for i in range(n):
                layers.append(BasicBlock(c_in, width, stride if i == 0 else 1))
                c_in = width
        self.stages = nn.Sequential(*layers)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 512, ceil(H / 16), ceil(W / 16))."""
        return self.stages(self.stem(x_BCHW))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 512)."""
        return self.forward_head(self.forward_features(x_BCHW))

    def forward_head(self, y_BDhw: Tensor) -> Tensor:
        """Averaged over the map."""
        return y_BDhw.mean((2, 3))
