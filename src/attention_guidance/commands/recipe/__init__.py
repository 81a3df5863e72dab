"""From raw text, and labelled data if there is some, to a model and a page of results.

`clean` removes from the text what must not be trained on, `rules` chooses the settings, and `low_resource` is the
command.
"""
