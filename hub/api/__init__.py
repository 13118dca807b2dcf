"""The REST API, `/api/v1`: what people and programs may ask and do, by the role of their token."""
