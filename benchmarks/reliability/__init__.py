"""What happens on faults, on damaged and hostile files, and in long runs?"""
