"""Losses on a batch of embeddings and its speaker labels, all called as ``loss(embeddings, speaker_labels)``.

They also take the third argument of pytorch-metric-learning's trainers, if it is None.

| loss | needs in a batch | compares with | grows with the number of speakers |
|---|---|---|---|
| `SupConLoss` | two utterances of some speaker | every other utterance of the batch | no |
| `HSCLLoss` | the same, and two speakers | the same, similar non-targets weigh more | no |
| `AAMSoftmaxLoss` | nothing | a learnt weight vector of every training speaker | yes |

`DistillationLoss` is called with a teacher's embeddings instead of labels.
"""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.losses.aam_softmax": "AAMSoftmaxLoss",
        "chns.losses.contrast": "HSCLLoss SupConLoss",
        "chns.losses.distillation": "DistillationLoss TaughtLoss",
    },
)
