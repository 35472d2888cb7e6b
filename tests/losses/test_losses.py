"""Contrastive and classification losses against naive loops, gradients and edge cases."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from chns.losses import AAMSoftmaxLoss, HSCLLoss, SupConLoss

LABELS = {
    "two each": [0, 0, 1, 1, 2, 2],
    "uneven": [0, 0, 0, 1, 1, 2, 2],
    "an anchor without a positive": [0, 0, 1, 1, 5],
    "not adjacent": [3, 1, 3, 0, 1, 0],
}


def embeddings_of(labels, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)


def naive_supcon(embeddings, labels, temperature, margin=0.0):
    """The definition, one pair at a time."""
    z = [e / e.norm() for e in embeddings]
    total, anchors = 0.0, 0
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        logit = {
            a: (float(z[i] @ z[a]) - (margin if labels[a] == labels[i] else 0.0)) / temperature
            for a in range(len(z))
            if a != i
        }
        denominator = sum(math.exp(value) for value in logit.values())
        total += sum(-math.log(math.exp(logit[p]) / denominator) for p in positives) / len(positives)
        anchors += 1
    return total / anchors


def naive_hscl(embeddings, labels, temperature, beta, scale):
    z = [e / e.norm() for e in embeddings]
    total, anchors = 0.0, 0
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        c = [math.exp(scale * float(z[i] @ z[j]) / temperature) for j in range(len(z))]
        negatives = [j for j in range(len(z)) if labels[j] != labels[i]]
        w = {j: c[j] ** beta for j in negatives}
        hard = len(negatives) * sum(w[j] * c[j] for j in negatives) / sum(w.values())
        total += sum(-math.log(c[p] / (c[p] + hard)) for p in positives) / len(positives)
        anchors += 1
    return total / anchors


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_supcon_equals_its_definition(labels, margin):
    x = embeddings_of(labels)
    loss = SupConLoss(temperature=0.3, margin=margin).double()(x, torch.tensor(labels))
    assert loss.item() == pytest.approx(naive_supcon(x, labels, 0.3, margin), abs=1e-6)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize(("beta", "scale"), [(0.0, 1.0), (0.1, 2.0), (1.5, 1.0)])
def test_hscl_equals_its_definition(labels, beta, scale):
    x = embeddings_of(labels)
    loss = HSCLLoss(temperature=0.3, beta=beta, similarity_scale=scale).double()(x, torch.tensor(labels))
    assert loss.item() == pytest.approx(naive_hscl(x, labels, 0.3, beta, scale), abs=1e-6)


def test_hscl_with_two_utterances_a_speaker_counts_n_minus_two_negatives():
    """The authors' formula, with N = 2P segments and the two views in one matrix."""
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    x = embeddings_of(labels)
    z = F.normalize(x)
    temperature, beta, n = 0.1, 0.1, len(labels)
    c = torch.exp(2 * z @ z.T / temperature)
    positive = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    negative = torch.tensor(labels)[:, None] != torch.tensor(labels)[None]
    weight = c**beta * negative
    hard = (n - 2) * (weight * c).sum(1) / weight.sum(1)
    c_positive = c[torch.arange(n), positive]
    expected = -torch.log(c_positive / (c_positive + hard)).mean()
    assert HSCLLoss().double()(x, torch.tensor(labels)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_gradient_flows_through_the_weights_of_hscl():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    x = embeddings_of(labels).requires_grad_()
    loss = HSCLLoss(temperature=0.5, learn_temperature=False, beta=1.0, similarity_scale=1.0).double()
    (gradient,) = torch.autograd.grad(loss(x, labels), x)

    z = F.normalize(x)
    similarities = z @ z.T / loss.temperature()
    c = similarities.exp()
    negative = labels[:, None] != labels[None]
    weight = (c.detach() * negative) / (c.detach() * negative).sum(1, keepdim=True)
    hard = 4 * (weight * c).sum(1)
    positive = c[torch.arange(6), torch.tensor([1, 0, 3, 2, 5, 4])]
    (expected,) = torch.autograd.grad(-torch.log(positive / (positive + hard)).mean(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "loss",
    [SupConLoss(0.5), SupConLoss(0.5, margin=0.1), HSCLLoss(0.5, beta=0.0), AAMSoftmaxLoss(4, 5, scale=3.0)],
    ids=["supcon", "supcon with margin", "hscl", "aam"],
)
def test_gradients_are_those_of_finite_differences(loss):
    # beta = 0 for H-SCL: its weights are constants by definition, which finite differences cannot know.
    loss = loss.double()
    labels = torch.tensor([0, 0, 1, 1, 3])
    x = embeddings_of(labels).requires_grad_()
    parameters = [p for p in loss.parameters() if p.requires_grad]
    assert parameters
    assert torch.autograd.gradcheck(lambda e, *_: loss(e, labels), (x, *parameters))


def test_aam_equals_its_definition():
    torch.manual_seed(0)
    loss = AAMSoftmaxLoss(num_speakers=3, embedding_dim=4, margin=0.2, scale=30.0).double()
    labels = torch.tensor([0, 2, 1, 2])
    x = embeddings_of(labels, dim=4)
    total = 0.0
    for row, label in zip(x, labels.tolist(), strict=True):
        angles = [math.acos(float(F.cosine_similarity(row, weight, dim=0))) for weight in loss.weight.detach()]
        logits = [30.0 * math.cos(angle + (0.2 if k == label else 0.0)) for k, angle in enumerate(angles)]
        total += -logits[label] + math.log(sum(math.exp(logit) for logit in logits))
    assert loss(x, labels).item() == pytest.approx(total / 4, abs=1e-6)


def test_aam_loss_never_falls_as_the_angle_to_the_true_speaker_grows():
    loss = AAMSoftmaxLoss(num_speakers=2, embedding_dim=3, margin=0.4).double()
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    angles = torch.linspace(0, math.pi, 100, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=1)
    losses = [loss(x[None], torch.tensor([0])).item() for x in circle]
    assert all(a <= b + 1e-12 for a, b in pairwise(losses))


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss(), AAMSoftmaxLoss(3, 5)])
def test_losses_are_float32_under_autocast_and_agree_with_float32_input(loss):
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    x = embeddings_of(labels).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(x, labels)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, loss(x.float(), labels))
    exact = copy.deepcopy(loss).double()(x.double(), labels)  # no autocast touches float64
    torch.testing.assert_close(mixed.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss(), AAMSoftmaxLoss(2, 3)])
def test_identical_and_opposite_embeddings_give_finite_gradients(loss):
    x = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [-1.0, 0, 0]], requires_grad=True)
    if isinstance(loss, AAMSoftmaxLoss):
        with torch.no_grad():
            loss.weight.copy_(torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))
    loss(x, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss()])
def test_an_anchor_without_a_positive_counts_only_as_a_negative(loss):
    x = embeddings_of([0, 0, 1, 1, 2]).float().requires_grad_()
    value = loss(x, torch.tensor([0, 0, 1, 1, 2]))
    value.backward()
    assert torch.isfinite(value)
    assert x.grad[4].abs().sum() > 0
    assert value.item() != loss(x[:4], torch.tensor([0, 0, 1, 1])).item()


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss()])
def test_temperature_starts_where_told_learns_or_stays(loss):
    assert loss.temperature().item() == pytest.approx(0.1)
    loss(embeddings_of([0, 0, 1, 1]).float(), torch.tensor([0, 0, 1, 1])).backward()
    assert loss.temperature.log.grad is not None
    fixed = type(loss)(learn_temperature=False)
    assert [p for p in fixed.parameters() if p.requires_grad] == []


@pytest.mark.parametrize("kind", [SupConLoss, HSCLLoss])
def test_without_settings_the_temperature_starts_at_a_tenth_and_learns_and_there_is_no_margin(kind):
    loss, plain = kind(), kind(temperature=0.1, learn_temperature=True)
    assert loss.temperature.log.requires_grad
    x, labels = embeddings_of(LABELS["uneven"]), torch.tensor(LABELS["uneven"])
    assert loss(x, labels).item() == plain(x, labels).item()
    assert SupConLoss()(x, labels).item() == SupConLoss(margin=0.0)(x, labels).item()
    assert HSCLLoss()(x, labels).item() == HSCLLoss(beta=0.1, similarity_scale=2.0)(x, labels).item()


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss()])
def test_a_batch_without_any_positive_pair_is_an_error(loss):
    way_out = r"got only different ones\. Draw at least two utterances a speaker into every batch\.$"
    with pytest.raises(ValueError, match=rf"^speaker_labels must hold some speaker twice, {way_out}"):
        loss(torch.randn(3, 4), torch.tensor([0, 1, 2]))


def test_hscl_with_one_speaker_is_an_error():
    with pytest.raises(ValueError, match=r"^speaker_labels must hold at least two speakers, got one\. Draw more"):
        HSCLLoss()(torch.randn(3, 4), torch.tensor([1, 1, 1]))


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss(), AAMSoftmaxLoss(2, 4)])
@pytest.mark.parametrize(("shape", "num_labels"), [((3, 4), 2), ((3, 4, 1), 3), ((4,), 4)])
def test_shapes_that_do_not_fit_are_an_error(loss, shape, num_labels):
    with pytest.raises(
        ValueError, match=r"^embeddings and speaker_labels must have shapes \(N, dim\) and \(N,\), got \("
    ):
        loss(torch.randn(shape), torch.zeros(num_labels, dtype=torch.int64))


@pytest.mark.parametrize("kind", [SupConLoss, HSCLLoss])
def test_temperature_must_be_positive(kind):
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0\.0"):
        kind(temperature=0.0)


def test_beta_moves_with_the_progress_of_the_training():
    loss = HSCLLoss(beta=0.5, beta_start=0.1, beta_ramp_share=0.5)
    betas = []
    for share_done in (0.0, 0.25, 0.5, 1.0):
        loss.set_progress(share_done)
        betas.append(loss.beta)
    assert betas == pytest.approx([0.1, 0.3, 0.5, 0.5])
    constant = HSCLLoss(beta=0.5)
    constant.set_progress(0.1)
    assert constant.beta == 0.5


def test_the_start_and_ramp_of_beta_must_be_in_range():
    with pytest.raises(ValueError, match=r"beta_start must be 0 or more, got -0\.1"):
        HSCLLoss(beta_start=-0.1)
    with pytest.raises(ValueError, match=r"beta_ramp_share must be above 0 and at most 1, got 0"):
        HSCLLoss(beta_ramp_share=0.0)
    with pytest.raises(ValueError, match=r"beta_ramp_share must be above 0 and at most 1, got 1\.01"):
        HSCLLoss(beta_ramp_share=1.01)
    whole = HSCLLoss(beta=1.0, beta_start=0.0, beta_ramp_share=1.0)
    whole.set_progress(0.5)
    assert whole.beta == 0.5


def test_beta_must_not_be_negative():
    with pytest.raises(ValueError, match=r"beta must be 0 or more, got -0\.1"):
        HSCLLoss(beta=-0.1)


def test_aam_settings_are_checked():
    with pytest.raises(ValueError, match="num_speakers must be at least 2, got 1"):
        AAMSoftmaxLoss(1, 4)
    with pytest.raises(ValueError, match=r"margin must be in \[0, pi / 2\), got 1\.6"):
        AAMSoftmaxLoss(2, 4, margin=1.6)
    with pytest.raises(ValueError, match="sampled_speakers must be at least 2, got 1"):
        AAMSoftmaxLoss(2, 4, sampled_speakers=1)


def test_without_settings_the_margin_is_a_fifth_the_scale_is_30_and_all_speakers_are_compared():
    torch.manual_seed(0)
    plain, told = AAMSoftmaxLoss(50, 5), AAMSoftmaxLoss(50, 5, margin=0.2, scale=30.0, sampled_speakers=None)
    told.load_state_dict(plain.state_dict())
    labels = torch.tensor([3, 3, 40])
    x = embeddings_of(labels).float()
    assert torch.equal(plain(x, labels), told(x, labels))


def test_margins_reach_from_none_to_less_than_a_right_angle():
    torch.manual_seed(0)
    loss, labels = AAMSoftmaxLoss(3, 5, margin=0.0, scale=2.0), torch.tensor([0, 2])
    x = embeddings_of(labels).float()
    softmax = F.cross_entropy(2 * F.normalize(x) @ F.normalize(loss.weight).T, labels)
    torch.testing.assert_close(loss(x, labels), softmax)
    AAMSoftmaxLoss(3, 5, margin=math.nextafter(math.pi / 2, 0))
    with pytest.raises(ValueError, match=r"margin must be in \[0, pi / 2\), got 1\.57"):
        AAMSoftmaxLoss(3, 5, margin=math.pi / 2)
    with pytest.raises(ValueError, match=r"margin must be in \[0, pi / 2\), got -0\.1"):
        AAMSoftmaxLoss(3, 5, margin=-0.1)


def test_where_margin_and_angle_are_a_straight_line_the_continuation_begins():
    loss = AAMSoftmaxLoss(2, 4, margin=math.pi / 3, scale=2.0)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [0, 1, 0, 0]]))
    true, other = 2 * (-0.5 - math.pi / 3 * math.sin(math.pi / 3)), 2 * 0.5
    assert loss(torch.ones(1, 4), torch.tensor([0])).item() == pytest.approx(math.log1p(math.exp(other - true)))


def test_a_sample_of_all_speakers_is_the_whole_loss():
    torch.manual_seed(0)
    whole = AAMSoftmaxLoss(num_speakers=7, embedding_dim=5)
    labels = torch.tensor([6, 2, 2, 0])
    x = embeddings_of(labels).float()
    for sampled_speakers in (7, 9):
        sampled = AAMSoftmaxLoss(num_speakers=7, embedding_dim=5, sampled_speakers=sampled_speakers)
        sampled.weight.data.copy_(whole.weight)
        torch.testing.assert_close(sampled(x, labels), whole(x, labels))


def test_a_step_compares_the_batch_with_its_speakers_and_others_that_change():
    loss = AAMSoftmaxLoss(num_speakers=50, embedding_dim=5, sampled_speakers=10)
    labels = torch.tensor([41, 3, 3, 7])
    touched = []
    for _ in range(3):
        loss.weight.grad = None
        loss(embeddings_of(labels).float(), labels).backward()
        touched.append({int(row) for row in loss.weight.grad.abs().sum(1).nonzero()})
    assert all(len(rows) == 10 and {3, 7, 41} <= rows for rows in touched)
    assert len(set(map(frozenset, touched))) == 3


def test_the_sample_follows_the_step_through_a_checkpoint():
    labels = torch.tensor([1, 2])
    x = embeddings_of(labels).float()
    loss = AAMSoftmaxLoss(num_speakers=50, embedding_dim=5, sampled_speakers=5)
    loss(x, labels)
    restored = AAMSoftmaxLoss(num_speakers=50, embedding_dim=5, sampled_speakers=5)
    restored.load_state_dict(loss.state_dict())
    assert torch.equal(restored(x, labels), loss(x, labels))


def test_a_sample_never_leaves_out_a_speaker_of_the_batch():
    labels = torch.arange(6)
    loss = AAMSoftmaxLoss(num_speakers=6, embedding_dim=5, sampled_speakers=2)
    whole = AAMSoftmaxLoss(num_speakers=6, embedding_dim=5)
    whole.weight.data.copy_(loss.weight)
    x = embeddings_of(labels).float()
    torch.testing.assert_close(loss(x, labels), whole(x, labels))
    loss.eval()
    torch.testing.assert_close(loss(x[:1], labels[:1]), whole(x[:1], labels[:1]))


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss(), AAMSoftmaxLoss(3, 5)])
def test_the_third_argument_of_a_metric_learning_trainer_changes_nothing_or_is_refused(loss):
    embeddings, labels = embeddings_of(LABELS["two each"]).float(), torch.tensor(LABELS["two each"])
    assert loss(embeddings, labels, None) == loss(embeddings, labels)
    mined = (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    way_out = "of a batch: leave the miner out, or take a loss of pytorch-metric-learning"
    with pytest.raises(ValueError, match=rf"must be None, got tuple\. This loss compares all pairs {way_out}\.$"):
        loss(embeddings, labels, mined)


@pytest.mark.parametrize("each", [2, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda **more: SupConLoss(0.3, margin=0.1, **more),
        lambda **more: HSCLLoss(0.3, **more),
        lambda **more: AAMSoftmaxLoss(9, 5, sampled_speakers=6, **more),
    ],
    ids=["supcon", "hscl", "sampled aam"],
)
def test_the_known_order_of_a_batch_changes_nothing(make, each):
    labels = torch.tensor([1, 4, 6, 8]).repeat_interleave(each)
    torch.manual_seed(0)
    found = make().double()
    known = make(utterances_per_speaker=each).double()
    known.load_state_dict(found.state_dict())
    for step in range(2):  # sampled speakers differ by step
        x, y = (embeddings_of(labels, seed=step).requires_grad_() for _ in range(2))
        a, b = found(x, labels), known(y, labels)
        a.backward()
        b.backward()
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(x.grad, y.grad, atol=1e-9, rtol=1e-7)


def test_where_the_order_of_a_batch_is_known_a_sample_asks_the_labels_nothing(monkeypatch):
    """A GPU would be waited for, as for every result whose size depends on numbers."""
    monkeypatch.delattr(torch, "unique")
    labels = torch.tensor([1, 1, 6, 6])
    loss = AAMSoftmaxLoss(9, 5, sampled_speakers=6, utterances_per_speaker=2)
    assert torch.isfinite(loss(embeddings_of(labels).float(), labels))
    with pytest.raises(AttributeError, match="unique"):
        AAMSoftmaxLoss(9, 5, sampled_speakers=6)(embeddings_of(labels).float(), labels)


@pytest.mark.parametrize("loss", [SupConLoss, HSCLLoss])
@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 2]])
def test_labels_in_another_order_than_said_are_an_error(loss, labels):
    with pytest.raises(ValueError, match="2 of each speaker, one speaker after the other"):
        loss(utterances_per_speaker=2)(embeddings_of(labels), torch.tensor(labels))
    with pytest.raises(ValueError, match="must be at least 2, got 1"):
        loss(utterances_per_speaker=1)


def test_sampling_goes_on_where_a_loaded_state_was():
    labels = torch.tensor([0, 0, 3, 3])
    torch.manual_seed(0)
    first, second = (AAMSoftmaxLoss(40, 5, sampled_speakers=8) for _ in range(2))
    x = embeddings_of(labels).float()
    first(x, labels)
    second(x, labels)
    second(x, labels)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, labels), second(x, labels))


def test_a_sample_is_on_the_device_of_the_labels():
    loss = AAMSoftmaxLoss(40, 5, sampled_speakers=8, utterances_per_speaker=2).to("meta")
    loss._steps_here = 0  # which a device without values cannot tell
    sample = loss._sample(torch.tensor([3, 3, 7, 7], device="meta"))
    assert [(part.device.type, len(part)) for part in sample] == [("meta", 8), ("meta", 4)]


def test_the_count_of_steps_never_stands_still():
    """In float32 it would, from 16,777,216 on, and every later step would compare with the same sample."""
    labels = torch.tensor([0, 3])
    loss = AAMSoftmaxLoss(40, 5, sampled_speakers=8)
    loss.load_state_dict({**loss.state_dict(), "steps": torch.tensor(2**24)})
    loss(embeddings_of(labels).float(), labels)
    assert loss.steps.item() == 2**24 + 1
