"""Studies of diffusion and flow models, their losses, parametrisations and samplers."""
