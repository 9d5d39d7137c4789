"""A local web page where the person sees their days, checks in and corrects estimates."""
