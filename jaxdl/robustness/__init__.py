"""Models under attack, noise and corruption: what to perturb images and text by, what is certain."""

from jaxdl.robustness.attacks import Attack, Perturbation, fgsm, pgd

__all__ = ["Attack", "Perturbation", "fgsm", "pgd"]
