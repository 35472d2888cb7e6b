"""Error rates on speakers that are not trained on."""

from __future__ import annotations

import numpy as np
import torch

from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation.metrics import VerificationMetrics, verification_metrics
from chns.evaluation.pairs import make_trials
from chns.evaluation.trials import resolve
from chns.evaluation.verification import score_trials


class Validation:
    """A fixed list of trials on held-out speakers, scored by the cosine of whole-utterance embeddings.

    Args:
        manifest: Utterances of speakers that are not in the training manifest.
        num_trials: Half of them targets; fewer if the manifest does not give as many.
        seed: Decides the trials.
        num_workers: Processes that decode.

    Raises:
        ValueError: If there are not two speakers, or no speaker has two utterances.
    """

    def __init__(self, manifest: Manifest, *, num_trials: int, seed: int, num_workers: int) -> None:
        sizes = np.bincount(manifest.speaker_labels)
        if len(sizes) < 2 or sizes.max() < 2:
            raise ValueError(
                "validation must have two speakers and a speaker with two utterances, "
                f"got {len(sizes)} speakers with at most {sizes.max(initial=0)} utterances."
            )
        half = num_trials // 2
        target_pairs = int((sizes * (sizes - 1) // 2).sum())
        nontarget_pairs = len(manifest) * (len(manifest) - 1) // 2 - target_pairs
        trials = make_trials(
            manifest,
            targets_per_speaker=max(1, half // len(sizes)),
            num_nontargets=min(half, nontarget_pairs),
            nontargets="random",
            seed=seed,
        )
        self._enrolment, self._test = resolve(trials, manifest)
        assert trials.is_target is not None
        self._is_target = trials.is_target
        self._manifest = manifest
        self._num_workers = num_workers

    def measure(self, model: SpeakerEncoder, device: torch.device) -> VerificationMetrics:
        """Embed the utterances and score the trials."""
        scores = score_trials(
            model,
            self._manifest,
            self._enrolment,
            self._test,
            num_workers=self._num_workers,
            device=device,
            sharded=True,
        )
        return verification_metrics(scores, self._is_target)
