from chns.bundle.bundle import load_model as load_model
from chns.core.errors import ChnsError as ChnsError
from chns.data.manifest import Manifest as Manifest
from chns.encoders import SpeakerEncoder as SpeakerEncoder
from chns.evaluation.embedder import Embedder as Embedder
from chns.evaluation.metrics import verification_metrics as verification_metrics
from chns.inference.publish import Publication as Publication
from chns.inference.publish import push_to_hub as push_to_hub
from chns.inference.streaming import StreamingVerifier as StreamingVerifier
from chns.inference.verifier import Verifier as Verifier
from chns.losses import AAMSoftmaxLoss as AAMSoftmaxLoss
from chns.losses import HSCLLoss as HSCLLoss
from chns.losses import SupConLoss as SupConLoss
from chns.sampling import BatchShape as BatchShape
from chns.sampling import ClusterGroups as ClusterGroups
from chns.sampling import ClusterSpeakerBatches as ClusterSpeakerBatches
from chns.sampling import HardBatches as HardBatches
from chns.sampling import NeighbourGroups as NeighbourGroups
from chns.sampling import NeighbourSpeakerBatches as NeighbourSpeakerBatches
from chns.sampling import RandomSpeakerBatches as RandomSpeakerBatches
from chns.sampling import StartAt as StartAt
from chns.sampling import cluster_speakers as cluster_speakers
from chns.sampling import find_neighbours as find_neighbours
from chns.store.voiceprints import VoiceprintStore as VoiceprintStore

__version__: str
