"""PSF models: fitting, drawing, shapes, acceptance, storage."""
