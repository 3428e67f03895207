// The API explorer: Swagger UI over the gateway's OpenAPI document.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
