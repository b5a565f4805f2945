"""The names that adapters outside this package import: what ``models/denoiser.py`` defines."""

from .models.denoiser import (
    Denoiser as Denoiser,
)
from .models.denoiser import (
    Embedding as Embedding,
)
from .models.denoiser import (
    Layout as Layout,
)
from .models.denoiser import (
    Output as Output,
)
from .models.denoiser import (
    View as View,
)
from .models.denoiser import (
    hosts as hosts,
)
from .models.denoiser import (
    share_masked as share_masked,
)
