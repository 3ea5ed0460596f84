"""The probe: what each layer's latents carry."""

__all__ = ["files", "job", "view"]
