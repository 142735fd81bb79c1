"""User studies: a page that raters vote in, and the figures their votes make."""
