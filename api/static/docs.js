// The API's explorer: Swagger UI over this gateway's own OpenAPI document.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
