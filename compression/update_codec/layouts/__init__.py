"""From symbols to bytes and back: how levels, digits and planes are packed before the entropy stage."""
