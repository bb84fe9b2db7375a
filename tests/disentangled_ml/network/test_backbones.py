"""Every backbone: shapes at odd sizes, gradients, independence of the batch; the inception network against the paper."""

import pytest
import torch
from torch import nn

from disentangled_ml.builders import model_settings
from disentangled_ml.config import TrainConfig, load_config
from disentangled_ml.network.backbones import BACKBONES
from disentangled_ml.network.backbones.inception import inception_module, stride_module
from disentangled_ml.network.backbones.layers import conv_norm_relu, conv_pool, scale_channels
from disentangled_ml.network.backbones.resnet import ResidualBlock
from disentangled_ml.network.backbones.se import SqueezeExcite
from disentangled_ml.network.checkpoint import make_network, network_from
from disentangled_ml.structures import AudioSettings

NARROW = 0.125
SIZES = [(16, 16), (17, 31), (40, 129), (128, 129)]
SUM_ORDER = 1e-5  # of the largest value: other batch sizes and memory layouts sum in another order
PARAMETERS = {"conv": 1_801_536, "resnet": 11_301_824, "se": 11_391_936, "inception": 2_806_464}

each_backbone = pytest.mark.parametrize("name", BACKBONES)


def spects(batch: int, n_mels: int = 128, frames: int = 129) -> torch.Tensor:
    return torch.randn(batch, 1, n_mels, frames, generator=torch.Generator().manual_seed(0))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@each_backbone
@pytest.mark.parametrize("width", [NARROW, 0.3])
@pytest.mark.parametrize(("n_mels", "frames"), SIZES)
def test_shape_and_gradients(name, width, n_mels, frames):
    backbone = BACKBONES[name](24, width)
    embedding = backbone(spects(3, n_mels, frames))
    assert embedding.shape == (3, 24)
    assert (embedding >= 0).all()
    embedding.square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@each_backbone
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    backbone = BACKBONES[name](24, NARROW)
    weights = torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    (backbone(spects(4)) * weights).sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_backbone
@pytest.mark.parametrize(("tf32", "tolerance"), [(False, 1e-5), (True, 2e-3)])
def test_a_gpu_embeds_as_the_cpu(name, tf32, tolerance, monkeypatch):
    """Unit-length embeddings at full width; torch lets convolutions on a GPU round their factors to TF32 unless told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    torch.manual_seed(0)
    backbone = BACKBONES[name](256)
    chunks = spects(64)
    backbone(chunks)  # running statistics other than the initial ones
    backbone.eval()
    with torch.inference_mode():
        expected, found = (
            nn.functional.normalize(backbone.to(device)(chunks.to(device))).cpu() for device in ("cpu", "cuda")
        )
    difference = (found - expected).abs().max().item()
    print(f"{name}, tf32={tf32}: largest difference {difference:.2g}")
    assert difference <= tolerance
    assert expected.std(dim=0).max() > 3 * tolerance  # the chunks do differ


@each_backbone
@pytest.mark.parametrize("frames", [258, 516])
def test_longer_chunks(name, frames):
    assert BACKBONES[name](16, NARROW)(spects(2, frames=frames)).shape == (2, 16)


@each_backbone
def test_published_size(name):
    backbone = BACKBONES[name](256)
    assert parameters(backbone) == PARAMETERS[name]
    with torch.inference_mode():
        assert backbone.eval()(spects(1)).shape == (1, 256)


@each_backbone
@pytest.mark.parametrize("width", [0, -0.5, float("nan")])
def test_rejects_width(name, width):
    with pytest.raises(ValueError, match="greater than 0"):
        BACKBONES[name](16, width)


@pytest.mark.parametrize("width", [1e-6, 0.1, 0.25, 0.3, 1, 1.7])
def test_channels_are_multiples_of_eight(width):
    for channels in (32, 48, 64, 96, 512):
        scaled = scale_channels(channels, width)
        assert scaled >= 8
        assert scaled % 8 == 0
        assert scaled == 8 or abs(scaled - channels * width) <= 4


@each_backbone
def test_evaluation_embeds_each_chunk_by_itself(name):
    backbone = BACKBONES[name](16, NARROW)
    chunks = spects(5)
    backbone(chunks)  # running statistics other than the initial ones
    backbone.eval()
    with torch.inference_mode():
        together, alone = backbone(chunks), torch.cat([backbone(chunk[None]) for chunk in chunks])
    tolerance = SUM_ORDER * together.max().item()
    torch.testing.assert_close(together, alone, atol=tolerance, rtol=0)
    assert together.std(dim=0).max() > 100 * tolerance  # the chunks do differ


@each_backbone
def test_channels_last_gives_the_same(name):
    backbone = BACKBONES[name](16, NARROW).eval()
    chunks = spects(2)
    with torch.inference_mode():
        expected = backbone(chunks)
        actual = backbone.to(memory_format=torch.channels_last)(chunks)
    torch.testing.assert_close(actual, expected, atol=SUM_ORDER * expected.max().item(), rtol=0)


@each_backbone
def test_bfloat16_autocast(name):
    backbone = BACKBONES[name](16, NARROW).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = backbone(spects(2, 64, 65))
    assert embedding.dtype == torch.bfloat16
    embedding.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())


@pytest.mark.slow
@each_backbone
def test_compiles_as_one_graph(name):
    backbone = BACKBONES[name](16, NARROW).eval()
    chunks = spects(2, 32, 33)
    with torch.inference_mode():
        compiled = torch.compile(backbone, backend="eager", fullgraph=True)(chunks)
        torch.testing.assert_close(compiled, backbone(chunks))


@each_backbone
def test_state_dict_rebuilds_the_backbone(name):
    backbone, other = (BACKBONES[name](16, NARROW).eval().requires_grad_(False) for _ in range(2))
    chunks = spects(2, 32, 33)
    assert not torch.equal(backbone(chunks), other(chunks))
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone(chunks), other(chunks))


def test_pooling_before_relu_is_relu_before_pooling():
    block = conv_pool(1, 8, 3)
    conv, norm, pool, relu = block
    x = spects(2, 17, 19)
    assert torch.equal(block(x), pool(relu(norm(conv(x)))))


def test_inception_channel_arithmetic():
    _, channels = stride_module(64, 1.0)
    assert channels == 48 + 96 + 64
    module, channels = inception_module(channels, 1.0)
    assert channels == 64 + 64 + 96 + 32 == 256
    assert module(spects(2, 8, 9).expand(-1, 208, -1, -1)).shape == (2, 256, 8, 9)


def test_inception_parameters_by_hand():
    def conv(c_in, c_out, kernel):
        return c_in * c_out * kernel**2 + 2 * c_out

    def stride(c):
        return conv(c, 48, 1) + conv(c, 64, 1) + conv(64, 96, 3) + conv(96, 96, 3)

    def inception(c):
        branches = conv(c, 64, 1), conv(c, 48, 1), conv(48, 64, 5), conv(c, 64, 1), conv(64, 96, 3), conv(96, 96, 3)
        return sum(branches) + conv(c, 32, 1)

    by_hand = conv(1, 64, 5) + stride(64) + inception(208) + 5 * (stride(256) + inception(400)) + conv(256, 256, 1)
    assert by_hand == PARAMETERS["inception"]


def test_inception_halves_seven_times():
    features = BACKBONES["inception"](16, NARROW).features
    sides, x = [], spects(2)
    for layer in features:
        x = layer(x)
        sides.append(tuple(x.shape[2:]))
    stride_sides = [(32, 33), (16, 17), (8, 9), (4, 5), (2, 3), (1, 2)]
    assert sides == [(64, 65)] + [side for side in stride_sides for _ in range(2)]


def test_every_convolution_but_the_gates_has_batch_norm():
    for name, backbone_class in BACKBONES.items():
        backbone = backbone_class(16, NARROW)
        convolutions = sum(isinstance(module, nn.Conv2d) for module in backbone.modules())
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
        gates = sum(isinstance(module, SqueezeExcite) for module in backbone.modules())
        assert gates == (8 if name == "se" else 0)
        assert convolutions == norms + 2 * gates


def test_se_is_the_residual_network_with_gates():
    resnet, se = BACKBONES["resnet"](16, NARROW).eval(), BACKBONES["se"](16, NARROW).eval()
    shared = resnet.state_dict()
    missing, unexpected = se.load_state_dict(shared, strict=False)
    assert not unexpected
    assert missing
    assert all("excite" in key for key in missing)
    chunks = spects(2, 32, 33)
    assert not torch.allclose(resnet(chunks), se(chunks))


def test_gate_scales_channels_between_zero_and_one():
    gate = SqueezeExcite(16)
    x = torch.rand(2, 16, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    ratio = gate(x) / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert ratio.min() > 0
    assert ratio.max() < 1


def test_residual_block_adds_its_input():
    block = ResidualBlock(8, 8, 1).eval()
    nn.init.zeros_(block.residual[1][1].weight)
    x = torch.randn(2, 8, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.relu())


def test_initialisation_keeps_the_scale():
    conv = BACKBONES["conv"](256, 1.0).features[3][0]
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert conv_norm_relu(1, 8, 3)[0].bias is None


def test_no_backbone_has_no_width():
    audio = AudioSettings(n_mels=16)
    with pytest.raises(ValueError, match=r"backbone\.width=0\.5 scales .* musicnn has none: leave it out"):
        make_network(["genre"], audio, backbone="musicnn", width=0.5, features=("msd",))
    network = make_network(["genre"], audio, backbone="musicnn", features=("msd",))
    # An earlier checkpoint may say any.
    config = load_config(TrainConfig, ["data=shards", "data.shards=x", "backbone=musicnn", "backbone.width=0.5"])
    checkpoint = {
        "state_dict": {f"network.{name}": value for name, value in network.state_dict().items()},
        **model_settings(config, ["genre"], audio, ["msd"]),
    }
    assert network_from(checkpoint).features == ("msd",)
