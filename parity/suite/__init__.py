"""The three backends' own layers under the checks of the library."""
