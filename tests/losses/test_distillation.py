"""Learning from a teacher: the value by hand, what it is indifferent to, and that a training does learn it."""

import pytest
import torch
from torch import nn

from chns.losses import DistillationLoss, SupConLoss, TaughtLoss


def test_it_is_one_minus_the_mean_cosine():
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    teacher = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    loss = DistillationLoss(embedding_dim=2, teacher_dim=2)
    assert loss(student, teacher).item() == pytest.approx(1 - (1 - 1 + 2**-0.5) / 3, abs=1e-6)
    torch.testing.assert_close(loss(7 * student, 0.1 * teacher), loss(student, teacher))


def test_the_contrast_is_the_cross_entropy_of_the_own_teacher():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    cosines = nn.functional.normalize(student) @ nn.functional.normalize(teacher).T
    shares = torch.exp(cosines / 0.2) / torch.exp(cosines / 0.2).sum(dim=1, keepdim=True)
    expected = 1 - cosines.diagonal().mean() - 3 * shares.diagonal().log().mean()
    loss = DistillationLoss(embedding_dim=4, teacher_dim=4, contrast_weight=3.0, temperature=0.2)
    torch.testing.assert_close(loss(student, teacher), expected)


def test_another_size_is_reached_through_a_learnt_projection():
    loss = DistillationLoss(embedding_dim=6, teacher_dim=4)
    student, teacher = torch.randn(3, 6, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loss(student, teacher).backward()
    assert [p.shape for p in loss.parameters()] == [(4, 6)]
    assert loss.projection.weight.grad.abs().sum() > 0
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    assert not list(DistillationLoss(embedding_dim=4, teacher_dim=4).parameters())


def test_it_is_computed_in_float32_under_autocast():
    student, teacher = torch.randn(8, 4), torch.randn(8, 4)
    loss = DistillationLoss(embedding_dim=4, teacher_dim=4, contrast_weight=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(student, teacher)
    torch.testing.assert_close(under, loss(student, teacher))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_dim": 0}, "embedding_dim and teacher_dim must be at least 1, got 4 and 0"),
        ({"contrast_weight": -1.0}, "contrast_weight must be at least 0 and temperature positive, got -1.0 and 0.07"),
        ({"temperature": 0.0}, "temperature positive, got 0.0 and 0.0"),
    ],
)
def test_settings_out_of_range_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationLoss(**{"embedding_dim": 4, "teacher_dim": 4, **settings})


def test_embeddings_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r"teacher_embeddings must have shape \(3, 5\), got \(3, 4\)"):
        DistillationLoss(embedding_dim=5, teacher_dim=5)(torch.randn(3, 5), torch.randn(3, 4))


def taught_loss(weight=2.0):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.9))
    return TaughtLoss(SupConLoss(), DistillationLoss(embedding_dim=4, teacher_dim=4), teacher, weight=weight), teacher


def test_the_teacher_is_neither_trained_nor_saved_and_embeds_without_dropout():
    loss, teacher = taught_loss()
    assert {name for name, _ in loss.named_parameters()} == {"loss.temperature.log"}
    assert set(loss.state_dict()) == {"loss.temperature.log"}
    loss.train()
    crops = torch.randn(130, 6)
    taught = loss.taught(crops)
    torch.testing.assert_close(taught, teacher[0](crops).detach())
    assert not taught.requires_grad


def test_both_losses_are_added():
    loss, _ = taught_loss()
    embeddings, labels, targets = torch.randn(6, 4), torch.arange(6) // 2, torch.randn(6, 4)
    expected = loss.loss(embeddings, labels) + 2.0 * loss.distillation(embeddings, targets)
    torch.testing.assert_close(loss(embeddings, labels, targets), expected)


def test_what_the_loop_asks_of_a_loss_is_asked_of_the_inner_one():
    loss, teacher = taught_loss()
    assert loss.temperature is loss.loss.temperature
    loss.set_progress(0.5)  # SupCon does not want to know

    class Curious(nn.Module):
        def set_progress(self, share):
            self.told = share

    curious = Curious()
    asked = TaughtLoss(curious, DistillationLoss(embedding_dim=4, teacher_dim=4), teacher, weight=1.0)
    asked.set_progress(0.25)
    assert curious.told == 0.25
    assert asked.temperature is None


def test_a_weight_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"weight must be positive, got 0\. Leave the teacher out"):
        taught_loss(weight=0)
