"""How fast is the fused attention kernel, and what does the compiler make of it?"""
