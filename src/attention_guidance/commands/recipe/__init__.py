"""From a text and, if there are some, labelled data to a model and a page that says what it is worth.

`clean` looks at the text and takes out what must not be trained on, `rules` chooses the settings, `low_resource` does
it all.
"""
