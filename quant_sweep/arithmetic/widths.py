"""How wide a code can be, in bits. Here rather than beside `QuantSpec`, because commands without torch ask for it."""

MIN_BITS, MAX_BITS = 2, 16
