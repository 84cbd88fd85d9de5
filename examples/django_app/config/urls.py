"""The addresses."""

from django.contrib import admin
from django.urls import path
from helpdesk import views
from helpdesk.api import TicketList

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", views.home, name="home"),
    path("<slug:slug>/", views.search, name="search"),
    path("<slug:slug>/ask", views.ask, name="ask"),
    path("<slug:slug>/tickets", TicketList.as_view(), name="tickets"),
    path("<slug:slug>/import", views.import_tickets, name="import"),
    path("<slug:slug>/<int:pk>", views.show, name="ticket"),
    path("<slug:slug>/<int:pk>/edit", views.edit, name="edit"),
]
