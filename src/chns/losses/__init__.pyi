from chns.losses.aam_softmax import AAMSoftmaxLoss as AAMSoftmaxLoss
from chns.losses.contrast import HSCLLoss as HSCLLoss
from chns.losses.contrast import SupConLoss as SupConLoss
from chns.losses.distillation import DistillationLoss as DistillationLoss
from chns.losses.distillation import TaughtLoss as TaughtLoss
