"""The name that programs import: what ``models/checkpoint.py`` defines."""

from .models.checkpoint import PrismModel as PrismModel
from .models.checkpoint import embedded as embedded
