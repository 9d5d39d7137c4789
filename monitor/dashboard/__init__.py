"""A local web page on which the person looks at their days, says how they feel, and corrects what was estimated."""
