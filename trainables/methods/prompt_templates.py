"""The prompts in which textual inversion shows a placeholder: those of the paper (Gal et al. 2022, arXiv:2208.01618).

They are a part of CLIP's templates for ImageNet, and the same in diffusers' script; ``{}`` stands for the noun, or for
the name of the style.
"""

from __future__ import annotations

_OBJECT = """
a photo of a {} | a rendering of a {} | a cropped photo of the {} | the photo of a {} | a photo of a clean {} |
a photo of a dirty {} | a dark photo of the {} | a photo of my {} | a photo of the cool {} | a close-up photo of a {} |
a bright photo of the {} | a cropped photo of a {} | a photo of the {} | a good photo of the {} | a photo of one {} |
a close-up photo of the {} | a rendition of the {} | a photo of the clean {} | a rendition of a {} |
a photo of a nice {} | a good photo of a {} | a photo of the nice {} | a photo of the small {} |
a photo of the weird {} | a photo of the large {} | a photo of a cool {} | a photo of a small {}
"""
_STYLE = """
a painting in the style of {} | a rendering in the style of {} | a cropped painting in the style of {} |
the painting in the style of {} | a clean painting in the style of {} | a dirty painting in the style of {} |
a dark painting in the style of {} | a picture in the style of {} | a cool painting in the style of {} |
a close-up painting in the style of {} | a bright painting in the style of {} | a good painting in the style of {} |
a rendition in the style of {} | a nice painting in the style of {} | a small painting in the style of {} |
a weird painting in the style of {} | a large painting in the style of {}
"""

#: What is taught -> templates; the style set without the two that the paper's list holds twice.
TEMPLATES = {
    kind: tuple(" ".join(template.split()) for template in text.split("|"))
    for kind, text in (("object", _OBJECT), ("style", _STYLE))
}
