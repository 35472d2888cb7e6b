from collections.abc import Callable, Mapping
from typing import Any

from chns.core.arrays import BoolArray as BoolArray
from chns.core.arrays import Float32Array as Float32Array
from chns.core.arrays import Float64Array as Float64Array
from chns.core.arrays import IntArray as IntArray
from chns.core.distributed import any_process as any_process
from chns.core.distributed import average_buffers as average_buffers
from chns.core.distributed import average_gradients as average_gradients
from chns.core.distributed import from_first_process as from_first_process
from chns.core.distributed import gather_array as gather_array
from chns.core.distributed import gather_batch as gather_batch
from chns.core.distributed import gather_rows as gather_rows
from chns.core.distributed import largest_anywhere as largest_anywhere
from chns.core.distributed import launched_world as launched_world
from chns.core.distributed import rank as rank
from chns.core.distributed import require_device as require_device
from chns.core.distributed import world_size as world_size
from chns.core.errors import FORMULA as FORMULA
from chns.core.errors import AudioError as AudioError
from chns.core.errors import ChnsError as ChnsError
from chns.core.errors import ConfigError as ConfigError
from chns.core.errors import FolderInUseError as FolderInUseError
from chns.core.errors import ManifestError as ManifestError
from chns.core.errors import ModelFileError as ModelFileError
from chns.core.errors import NonFiniteError as NonFiniteError
from chns.core.errors import RunFolderError as RunFolderError
from chns.core.errors import TrialError as TrialError
from chns.core.errors import counted as counted
from chns.core.errors import in_short as in_short
from chns.core.errors import no_formula as no_formula
from chns.core.errors import percent as percent
from chns.core.errors import plain_text as plain_text
from chns.core.errors import quoted as quoted
from chns.core.errors import shown as shown
from chns.core.errors import suggestion as suggestion
from chns.core.errors import table_cell as table_cell
from chns.core.errors import usage_message as usage_message
from chns.core.factory import make as make
from chns.core.factory import require_trusted as require_trusted
from chns.core.files import LARGEST_YAML_BYTES as LARGEST_YAML_BYTES
from chns.core.files import atomic_folder as atomic_folder
from chns.core.files import atomic_path as atomic_path
from chns.core.files import bounded_text as bounded_text
from chns.core.files import config_path as config_path
from chns.core.files import locked_folder as locked_folder
from chns.core.files import number as number
from chns.core.files import plain_disk_errors as plain_disk_errors
from chns.core.files import presets as presets
from chns.core.files import read_yaml as read_yaml
from chns.core.files import require_ours as require_ours
from chns.core.files import require_small_yaml as require_small_yaml
from chns.core.files import write_text as write_text
from chns.core.parallel import JobPart as JobPart
from chns.core.parallel import mapped as mapped

def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]: ...
