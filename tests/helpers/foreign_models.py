"""State dicts with the names and shapes of other toolkits' models, and what those models compute, written anew.

The references are functions over a state dict of the toolkit's own names, so they share nothing with our modules.
"""

import math

import torch
from torch.nn import functional as F


class State(dict):
    """A state dict of random weights; norms have moved, as after training."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, scale=1.0):
        return scale * torch.randn(shape, generator=self.generator)

    def layer(self, name, *shape, bias=True):
        fan_in = torch.Size(shape[1:]).numel()
        self[f"{name}.weight"] = self.normal(*shape, scale=fan_in**-0.5)
        if bias:
            self[f"{name}.bias"] = self.normal(shape[0], scale=0.1)

    def norm(self, name, channels):
        for part, scale in (("weight", 0.2), ("bias", 0.3), ("running_mean", 0.3), ("running_var", 0.1)):
            centre = 1.0 if part in ("weight", "running_var") else 0.0
            self[f"{name}.{part}"] = (centre + self.normal(channels, scale=scale)).clamp_min(
                0.3 if part == "running_var" else -9.0
            )
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def scale(self, name, channels):
        self[f"{name}.weight"] = 1 + self.normal(channels, scale=0.2)
        self[f"{name}.bias"] = self.normal(channels, scale=0.3)


def normed(state, name, x):
    parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *parts)


def conv(state, name, x, **settings):
    return F.conv1d(x, state[f"{name}.weight"], state[f"{name}.bias"], **settings)


def speechbrain_state(channels=32, aggregation=48, dim=16, attention=12, squeezed=10, global_context=True, scale=4):
    state = State()

    def block(name, out, into, kernel=1):
        state.layer(f"{name}.conv.conv", out, into, kernel)
        state.norm(f"{name}.norm.norm", out)

    block("blocks.0", channels, 80, 5)
    for number in (1, 2, 3):
        block(f"blocks.{number}.tdnn1", channels, channels)
        for group in range(scale - 1):
            block(f"blocks.{number}.res2net_block.blocks.{group}", channels // scale, channels // scale, 3)
        block(f"blocks.{number}.tdnn2", channels, channels)
        state.layer(f"blocks.{number}.se_block.conv1.conv", squeezed, channels, 1)
        state.layer(f"blocks.{number}.se_block.conv2.conv", channels, squeezed, 1)
    block("mfa", aggregation, 3 * channels)
    block("asp.tdnn", attention, (3 if global_context else 1) * aggregation)
    state.layer("asp.conv.conv", aggregation, attention, 1)
    state.norm("asp_bn.norm", 2 * aggregation)
    state.layer("fc.conv", dim, 2 * aggregation, 1)
    return state


def speechbrain_embedding(state, features, *, global_context=True, scale=4):
    """Convolutions see the utterance mirrored."""

    def block(name, x, dilation=1):
        reach = dilation * (state[f"{name}.conv.conv.weight"].shape[2] - 1) // 2
        x = conv(state, f"{name}.conv.conv", F.pad(x, (reach, reach), mode="reflect"), dilation=dilation)
        return normed(state, f"{name}.norm.norm", x.relu())

    x = block("blocks.0", features.transpose(1, 2))
    outputs = []
    for number in (1, 2, 3):
        groups = block(f"blocks.{number}.tdnn1", x).chunk(scale, dim=1)
        done = [groups[0]]
        for place in range(1, scale):
            seen = groups[place] if place == 1 else groups[place] + done[-1]
            done.append(block(f"blocks.{number}.res2net_block.blocks.{place - 1}", seen, number + 1))
        y = block(f"blocks.{number}.tdnn2", torch.cat(done, dim=1))
        gate = conv(state, f"blocks.{number}.se_block.conv1.conv", y.mean(2, keepdim=True)).relu()
        x = x + y * conv(state, f"blocks.{number}.se_block.conv2.conv", gate).sigmoid()
        outputs.append(x)
    x = block("mfa", torch.cat(outputs, dim=1))
    mean, deviation = x.mean(2, keepdim=True).expand_as(x), x.std(2, keepdim=True, unbiased=False).expand_as(x)
    hidden = block("asp.tdnn", torch.cat([x, mean, deviation], dim=1) if global_context else x).tanh()
    pooled = weighted_statistics(x, conv(state, "asp.conv.conv", hidden), floor=1e-12)
    return conv(state, "fc.conv", normed(state, "asp_bn.norm", pooled)[:, :, None])[:, :, 0]


def weighted_statistics(x, scores, *, floor):
    """In float64: a variance as the difference of two large numbers."""
    weights, x = scores.double().softmax(dim=2), x.double()
    mean = (weights * x).sum(2)
    deviation = ((weights * x.square()).sum(2) - mean.square()).clamp_min(floor).sqrt()
    return torch.cat([mean, deviation], dim=1).to(scores.dtype)


def wespeaker_ecapa_state(channels=32, aggregation=48, dim=16, global_context=True, scale=4):
    state = State()

    def block(name, out, into, kernel=1):
        state.layer(f"{name}.conv", out, into, kernel)
        state.norm(f"{name}.bn", out)

    block("layer1", channels, 80, 5)
    for number in (2, 3, 4):
        inside = f"layer{number}.se_res2block"
        block(f"{inside}.0", channels, channels)
        for group in range(scale - 1):
            state.layer(f"{inside}.1.convs.{group}", channels // scale, channels // scale, 3)
            state.norm(f"{inside}.1.bns.{group}", channels // scale)
        block(f"{inside}.2", channels, channels)
        state.layer(f"{inside}.3.linear1", 10, channels)
        state.layer(f"{inside}.3.linear2", channels, 10)
    state.layer("conv", aggregation, 3 * channels, 1)
    state.layer("pool.linear1", 12, (3 if global_context else 1) * aggregation, 1)
    state.layer("pool.linear2", aggregation, 12, 1)
    state.norm("bn", 2 * aggregation)
    state.layer("linear", dim, 2 * aggregation)
    state["projection.weight"] = state.normal(100, dim)
    return state


def wespeaker_ecapa_embedding(state, features, *, global_context=True, scale=4):
    """The last group of channels passes a Res2Net block as it is; no norm after the aggregation or in the attention."""

    def block(name, x, reach=0):
        return normed(state, f"{name}.bn", conv(state, f"{name}.conv", x, padding=reach).relu())

    x = block("layer1", features.transpose(1, 2), 2)
    outputs = []
    for number in (2, 3, 4):
        inside = f"layer{number}.se_res2block"
        *groups, last = block(f"{inside}.0", x).chunk(scale, dim=1)
        done = []
        for place, group in enumerate(groups):
            seen = group if place == 0 else group + done[-1]
            seen = conv(state, f"{inside}.1.convs.{place}", seen, padding=number, dilation=number).relu()
            done.append(normed(state, f"{inside}.1.bns.{place}", seen))
        y = block(f"{inside}.2", torch.cat([*done, last], dim=1))
        gate = F.linear(y.mean(2), state[f"{inside}.3.linear1.weight"], state[f"{inside}.3.linear1.bias"]).relu()
        gate = F.linear(gate, state[f"{inside}.3.linear2.weight"], state[f"{inside}.3.linear2.bias"]).sigmoid()
        x = x + y * gate[:, :, None]
        outputs.append(x)
    x = conv(state, "conv", torch.cat(outputs, dim=1)).relu()
    context = [x.mean(2, keepdim=True).expand_as(x), (x.var(2, keepdim=True) + 1e-7).sqrt().expand_as(x)]
    hidden = conv(state, "pool.linear1", torch.cat([x, *context], dim=1) if global_context else x).tanh()
    pooled = normed(state, "bn", weighted_statistics(x, conv(state, "pool.linear2", hidden), floor=1e-7))
    return F.linear(pooled, state["linear.weight"], state["linear.bias"])


def wespeaker_resnet_state(channels=8, blocks=(3, 4, 6, 3), num_mels=80, dim=16, bottleneck=False):
    state = State()
    state.layer("conv1", channels, 1, 3, 3, bias=False)
    state.norm("bn1", channels)
    into = channels
    for stage, num_blocks in enumerate(blocks):
        narrow = channels * 2**stage
        out = 4 * narrow if bottleneck else narrow
        for number in range(num_blocks):
            name = f"layer{stage + 1}.{number}"
            side = 1 if bottleneck else 3
            state.layer(f"{name}.conv1", narrow, into, side, side, bias=False)
            state.norm(f"{name}.bn1", narrow)
            state.layer(f"{name}.conv2", narrow, narrow, 3, 3, bias=False)
            state.norm(f"{name}.bn2", narrow)
            if bottleneck:
                state.layer(f"{name}.conv3", out, narrow, 1, 1, bias=False)
                state.norm(f"{name}.bn3", out)
            if into != out:
                state.layer(f"{name}.shortcut.0", out, into, 1, 1, bias=False)
                state.norm(f"{name}.shortcut.1", out)
            into = out
    state.layer("seg_1", dim, 2 * into * num_mels // 8)
    state["projection.weight"] = state.normal(100, dim)
    return state


def wespeaker_resnet_embedding(state, features, *, blocks=(3, 4, 6, 3)):
    """Mean and deviation over time of every channel and band."""

    def convolved(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    x = normed(state, "bn1", convolved("conv1", features.transpose(1, 2)[:, None])).relu()
    for stage, num_blocks in enumerate(blocks):
        for number in range(num_blocks):
            name, stride = f"layer{stage + 1}.{number}", 2 if stage > 0 and number == 0 else 1
            bottleneck = f"{name}.conv3.weight" in state  # the narrow convolution has the stride then
            y = normed(state, f"{name}.bn1", convolved(f"{name}.conv1", x, 1 if bottleneck else stride)).relu()
            y = normed(state, f"{name}.bn2", convolved(f"{name}.conv2", y, stride if bottleneck else 1))
            if bottleneck:
                y = normed(state, f"{name}.bn3", convolved(f"{name}.conv3", y.relu()))
            if f"{name}.shortcut.0.weight" in state:
                x = normed(state, f"{name}.shortcut.1", convolved(f"{name}.shortcut.0", x, stride))
            x = (x + y).relu()
    pooled = torch.cat([x.mean(3).flatten(1), (x.var(3) + 1e-7).sqrt().flatten(1)], dim=1)
    return F.linear(pooled, state["seg_1.weight"], state["seg_1.bias"])


def cam_plus_plus_state(front=4, channels=16, growth=8, layers=(2, 2, 2), dim=16, num_mels=80):
    """3D-Speaker's names; the published sizes are 32, 128, 32, (12, 24, 16) and 192."""
    state = State()
    state.layer("head.conv1", front, 1, 3, 3, bias=False)
    state.norm("head.bn1", front)
    for stage in ("layer1", "layer2"):
        for number in range(2):
            name = f"head.{stage}.{number}"
            for part in ("1", "2"):
                state.layer(f"{name}.conv{part}", front, front, 3, 3, bias=False)
                state.norm(f"{name}.bn{part}", front)
        state.layer(f"head.{stage}.0.shortcut.0", front, front, 1, 1, bias=False)
        state.norm(f"head.{stage}.0.shortcut.1", front)
    state.layer("head.conv2", front, front, 3, 3, bias=False)
    state.norm("head.bn2", front)
    state.layer("xvector.tdnn.linear", channels, front * num_mels // 8, 5, bias=False)
    state.norm("xvector.tdnn.nonlinear.batchnorm", channels)
    for block, num_layers in enumerate(layers, start=1):
        for number in range(1, num_layers + 1):
            name = f"xvector.block{block}.tdnnd{number}"
            state.norm(f"{name}.nonlinear1.batchnorm", channels)
            state.layer(f"{name}.linear1", 4 * growth, channels, 1, bias=False)
            state.norm(f"{name}.nonlinear2.batchnorm", 4 * growth)
            state.layer(f"{name}.cam_layer.linear_local", growth, 4 * growth, 3, bias=False)
            state.layer(f"{name}.cam_layer.linear1", 2 * growth, 4 * growth, 1)
            state.layer(f"{name}.cam_layer.linear2", growth, 2 * growth, 1)
            channels += growth
        state.norm(f"xvector.transit{block}.nonlinear.batchnorm", channels)
        state.layer(f"xvector.transit{block}.linear", channels // 2, channels, 1, bias=False)
        channels //= 2
    state.norm("xvector.out_nonlinear.batchnorm", channels)
    state.layer("xvector.dense.linear", dim, 2 * channels, 1, bias=False)
    state.norm("xvector.dense.nonlinear.batchnorm", dim)
    for part in ("weight", "bias"):  # the last normalisation has none
        del state[f"xvector.dense.nonlinear.batchnorm.{part}"]
    return state


def cam_plus_plus_embedding(state, features, *, layers=(2, 2, 2), dilations=(1, 2, 2)):
    """Segments of 100 frames, after the first convolution has halved them."""

    def plane(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=(stride, 1), padding=weight.shape[2] // 2)

    def line(name, x, **settings):
        return F.conv1d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **settings)

    x = normed(state, "head.bn1", plane("head.conv1", features.transpose(1, 2)[:, None])).relu()
    for stage in ("layer1", "layer2"):
        for number, stride in enumerate((2, 1)):
            name = f"head.{stage}.{number}"
            y = normed(state, f"{name}.bn1", plane(f"{name}.conv1", x, stride)).relu()
            y = normed(state, f"{name}.bn2", plane(f"{name}.conv2", y))
            if number == 0:
                x = normed(state, f"{name}.shortcut.1", plane(f"{name}.shortcut.0", x, stride))
            x = (x + y).relu()
    x = normed(state, "head.bn2", plane("head.conv2", x, 2)).relu().flatten(1, 2)
    x = normed(state, "xvector.tdnn.nonlinear.batchnorm", line("xvector.tdnn.linear", x, stride=2, padding=2)).relu()
    for block, (num_layers, dilation) in enumerate(zip(layers, dilations, strict=True), start=1):
        for number in range(1, num_layers + 1):
            name = f"xvector.block{block}.tdnnd{number}"
            y = line(f"{name}.linear1", normed(state, f"{name}.nonlinear1.batchnorm", x).relu())
            y = normed(state, f"{name}.nonlinear2.batchnorm", y).relu()
            parts = [part.mean(2, keepdim=True).expand_as(part) for part in y.split(100, dim=2)]
            context = y.mean(2, keepdim=True) + torch.cat(parts, dim=2)
            gate = line(f"{name}.cam_layer.linear2", line(f"{name}.cam_layer.linear1", context).relu()).sigmoid()
            y = line(f"{name}.cam_layer.linear_local", y, padding=dilation, dilation=dilation) * gate
            x = torch.cat([x, y], dim=1)
        name = f"xvector.transit{block}"
        x = line(f"{name}.linear", normed(state, f"{name}.nonlinear.batchnorm", x).relu())
    x = normed(state, "xvector.out_nonlinear.batchnorm", x).relu()
    pooled = torch.cat([x.mean(2), x.std(2)], dim=1)
    y = F.linear(pooled, state["xvector.dense.linear.weight"][:, :, 0])
    name = "xvector.dense.nonlinear.batchnorm"
    return F.batch_norm(y, state[f"{name}.running_mean"], state[f"{name}.running_var"])


REDIMNET_STAGES = (((1, 2), 1, 2, [(3, 3)], 10), ((2, 1), 2, 1, [(3, 3)], 20))


def redimnet_filters(num_mels):
    """As the original has it: 256 bins from 0 Hz to half the rate, both included; the first is under none."""

    def mel(hz):
        return 2595 * torch.log10(1 + torch.as_tensor(hz, dtype=torch.float64) / 700)

    points = torch.linspace(float(mel(20)), float(mel(7600)), num_mels + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, 8000, 256, dtype=torch.float64))[1:]
    rows = [
        torch.stack([(bins - low) / (centre - low), (high - bins) / (high - centre)]).amin(dim=0).clamp_min(0)
        for low, centre, high in zip(points, points[1:], points[2:], strict=False)
    ]
    return torch.cat([torch.zeros(num_mels, 1, dtype=torch.float64), torch.stack(rows)], dim=1).float()


def redimnet_state(channels=4, num_mels=40, out_channels=6, dim=16, stages=REDIMNET_STAGES):
    """ReDimNet2's names; B0 has 12 channels, 72 mels and six stages."""
    state, signal = State(), channels * num_mels
    state["spec.torchfbank.2.melbanks_pt"] = redimnet_filters(num_mels)[:, :, None]
    state.layer("backbone.stem.0", channels, 1, 3, 3)
    state.scale("backbone.stem.1", channels)
    state.scale("backbone.stem_gnorm", signal)
    width, bands, stride = channels, num_mels, 1
    for number, ((divide, frames), blocks, expansion, _, reduction) in enumerate(stages):
        name, wide, narrow = f"backbone.stage{number}", divide * width * expansion, signal // reduction
        state[f"{name}.0.w"] = state.normal(1, number + 1, signal, 1)
        stride *= frames
        state.layer(f"{name}.2", wide, width // math.gcd(width, wide), divide, stride)
        for block in range(blocks):
            at = f"{name}.{3 + block}.conv_block"
            for part in ("1", "2"):
                state.layer(f"{at}.conv{part}", wide, 1, 3, 3, bias=False)
                state.layer(f"{at}.conv{part}pw", wide, wide, 1, 1)
                state.norm(f"{at}.bn{part}", wide)
        width, bands, place = divide * width, bands // divide, 3 + blocks
        if expansion != 1:
            state.layer(f"{name}.{place}.0", width, wide, 1, 1)
            state.norm(f"{name}.{place}.1", width)
            place += 1
        at = f"{name}.{place + 1}"
        state.layer(f"{at}.red_dim_conv.0", narrow, signal, 1)
        state.scale(f"{at}.red_dim_conv.1", narrow)
        for kernel, size in enumerate((7, 19, 31, 59)):
            state.layer(f"{at}.tcm.{kernel}.dwconvs.0", narrow, 1, size)
            state.norm(f"{at}.tcm.{kernel}.norm", narrow)
            state.layer(f"{at}.tcm.{kernel}.pwconv1", narrow, narrow, 1)
        for part in ("q", "k", "v", "out"):
            state.layer(f"{at}.tcm.4.attention.{part}_proj", narrow, narrow)
        state.layer(f"{at}.tcm.4.feed_forward.intermediate_dense", narrow, narrow)
        state.layer(f"{at}.tcm.4.feed_forward.output_dense", narrow, narrow)
        state.scale(f"{at}.tcm.4.layer_norm", narrow)
        state.scale(f"{at}.tcm.4.final_layer_norm", narrow)
        state.layer(f"{at}.exp_dim_conv", signal, narrow, 1)
        state.scale(f"{name}.{place + 3}", signal)
    state["backbone.fin_wght1d.w"] = state.normal(1, len(stages) + 1, signal, 1)
    state.layer("backbone.head", out_channels, width, 1, 1)
    pooled = out_channels * bands
    state.layer("pool.linear1", 128, 3 * pooled, 1)
    state.layer("pool.linear2", pooled, 128, 1)
    state.norm("bn", 2 * pooled)
    state.layer("linear", dim, 2 * pooled)
    return state


def dense(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def along(state, name, x, groups=1):
    kernel = state[f"{name}.weight"]
    return F.conv1d(x, kernel, state[f"{name}.bias"], padding=kernel.shape[2] // 2, groups=groups)


def by_channel(state, name, x, axis=1):
    moved = x.movedim(axis, -1)
    return F.layer_norm(moved, moved.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6).movedim(-1, axis)


def summed(state, name, results):
    return (state[name].softmax(dim=1) * torch.stack(results, dim=1)).sum(dim=1)


def attended(state, name, x):
    x = x.transpose(1, 2)
    parts = [dense(state, f"{name}.attention.{part}_proj", x) for part in ("q", "k", "v")]
    heads = [part.unflatten(2, (4, -1)).transpose(1, 2) for part in parts]
    mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    x = by_channel(state, f"{name}.layer_norm", x + dense(state, f"{name}.attention.out_proj", mixed), 2)
    hidden = F.gelu(dense(state, f"{name}.feed_forward.intermediate_dense", x), approximate="tanh")
    hidden = x + dense(state, f"{name}.feed_forward.output_dense", hidden)
    return by_channel(state, f"{name}.final_layer_norm", hidden, 2).transpose(1, 2)


def separable_block(state, name, image):
    y = image
    for part in ("1", "2"):
        y = F.conv2d(y, state[f"{name}.conv{part}.weight"], padding=1, groups=y.shape[1])
        y = F.conv2d(y, state[f"{name}.conv{part}pw.weight"], state[f"{name}.conv{part}pw.bias"])
        y = normed(state, f"{name}.bn{part}", y.relu() if part == "1" else y)
    return (image + y).relu()


def in_context(state, name, signal):
    x = by_channel(state, f"{name}.red_dim_conv.1", along(state, f"{name}.red_dim_conv.0", signal))
    for kernel in range(4):
        at = f"{name}.tcm.{kernel}"
        y = normed(state, f"{at}.norm", along(state, f"{at}.dwconvs.0", x, groups=x.shape[1]))
        x = x + along(state, f"{at}.pwconv1", F.gelu(y))
    return signal + along(state, f"{name}.exp_dim_conv", attended(state, f"{name}.tcm.4", x))


def redimnet_embedding(state, features, *, channels=4, stages=REDIMNET_STAGES):
    """Images are (batch, channels, bands, frames); as a signal the channels of a band are side by side."""

    def plane(name, x, **settings):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **settings)

    def grouped(name, x):
        return F.group_norm(x, channels, state[f"{name}.weight"], state[f"{name}.bias"])

    mels = features[:, : features.shape[1] // 2 * 2].transpose(1, 2)
    stem = by_channel(state, "backbone.stem.1", plane("backbone.stem.0", mels[:, None], padding=1))
    results = [grouped("backbone.stem_gnorm", stem.permute(0, 2, 1, 3).flatten(1, 2))]
    width, bands, stride = channels, mels.shape[1], 1
    for number, ((divide, shorten), blocks, expansion, _, _) in enumerate(stages):
        name, stride = f"backbone.stage{number}", stride * shorten
        image = summed(state, f"{name}.0.w", results).unflatten(1, (bands, width)).transpose(1, 2)
        groups = math.gcd(width, divide * width * expansion)
        image = plane(f"{name}.2", image, stride=(divide, stride), groups=groups)
        for block in range(blocks):
            image = separable_block(state, f"{name}.{3 + block}.conv_block", image)
        width, bands, place = divide * width, bands // divide, 3 + blocks
        if expansion != 1:
            parts = [state[f"{name}.{place}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            image = F.batch_norm(plane(f"{name}.{place}.0", image), *parts, eps=1e-6)
            place += 1
        signal = in_context(state, f"{name}.{place + 1}", image.permute(0, 2, 1, 3).flatten(1, 2))
        results.append(grouped(f"{name}.{place + 3}", signal.repeat_interleave(stride, dim=2)))
    image = summed(state, "backbone.fin_wght1d.w", results).unflatten(1, (bands, width)).transpose(1, 2)
    x = plane("backbone.head", image).flatten(1, 2)
    mean, deviation = x.mean(2, keepdim=True).expand_as(x), (x.var(2, keepdim=True) + 1e-7).sqrt().expand_as(x)
    hidden = along(state, "pool.linear1", torch.cat([x, mean, deviation], dim=1)).tanh()
    pooled = weighted_statistics(x, along(state, "pool.linear2", hidden), floor=1e-7)
    return dense(state, "linear", normed(state, "bn", pooled))
