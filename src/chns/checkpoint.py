"""The former name of `chns.bundle.bundle`, for scripts that load or save models."""

from chns.bundle.bundle import Architecture, Bundle, add_metrics, load_bundle, load_model, save_bundle

__all__ = ["Architecture", "Bundle", "add_metrics", "load_bundle", "load_model", "save_bundle"]
