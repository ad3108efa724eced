"""`pyworker up`: starts model server, worker and (in local mode) engine side by side, and stops them in order.

None of them starts another: they know each other by log lines and HTTP alone. ``process`` is one of them, ``local`` the
whole system on one machine, ``unattended`` what runs on a rented instance, ``demo_model`` the
model server of local mode.
"""
